#!/bin/sh
# An unmodified strongSwan that keeps a tunnel to the gateway. It waits for its secret, which `form` makes.
set -eu

until [ -s /run/secrets/swanctl.conf ]; do sleep 0.2; done
mkdir -p /etc/swanctl
cat > /etc/strongswan.conf <<END
charon {
  load = random nonce openssl aes sha1 sha2 hmac kdf gcm chapoly curve25519 kernel-libipsec kernel-netlink socket-default updown vici
  install_virtual_ip_on = lo
  retransmit_timeout = 1.0
  start-scripts { load = /usr/sbin/swanctl --load-all --noprompt }
  filelog { stderr { default = 1 } }
}
swanctl { load = random openssl pem pkcs1 x509 constraints pubkey }
END
cat > /etc/swanctl/swanctl.conf <<END
connections {
  net {
    version = 2
    remote_addrs = 198.51.100.1
    vips = 0.0.0.0
    keyingtries = 0
    local { auth = psk
      id = alice }
    remote { auth = psk
      id = gw }
    children { net {
      remote_ts = 10.10.0.0/24
      start_action = start
      close_action = start
      dpd_action = restart } }
  }
}
include /run/secrets/swanctl.conf
END
exec /usr/lib/ipsec/charon

#!/bin/sh
# Writes node.toml for this container and becomes pontoon. Which device an engine gives to which network is its own
# affair; the addresses are ours.
set -eu

# The device with an address that begins so, and that address.
device() { busybox ip -o -4 addr show | busybox awk -v net="$1" 'index($4, net) == 1 { print $2; exit }'; }
address() { busybox ip -o -4 addr show | busybox awk -v net="$1" 'index($4, net) == 1 { sub("/.*", "", $4); print $4; exit }'; }

mkdir -p /etc/pontoon
cat > /etc/pontoon/node.toml <<END
name      = "$(busybox hostname)"
advertise = "$(address 198.18.0.):7400"
data_dir  = "/var/lib/pontoon"

[control]
socket = "/run/pontoon/control.sock"
http   = "127.0.0.1:9477"

[outside]
device   = "$(device 198.51.100.)"
address  = ["198.51.100.1/24"]
steering = "announce"

[inside]
device   = "$(device 10.10.0.)"
address  = ["10.10.0.1/24"]
steering = "announce"
tun      = "pontoon0"

[timing]
profile = "lan"
END
exec pontoon run --config /etc/pontoon/node.toml

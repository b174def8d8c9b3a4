#!/bin/sh
# A file and its hash over HTTP. Clients' addresses are behind the gateway.
set -eu

busybox ip route add 10.99.0.0/16 via 10.10.0.1
mkdir -p /srv
head -c 268435456 /dev/urandom > /srv/file
sha256sum /srv/file | busybox cut -d ' ' -f 1 > /srv/file.sha256
exec busybox httpd -f -p 80 -h /srv

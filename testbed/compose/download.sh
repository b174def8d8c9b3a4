#!/bin/sh
# Downloads the server's file through the tunnel and compares its hash.
set -eu

server=http://10.10.0.9
wanted=$(busybox wget -q -O - $server/file.sha256)
begun=$(date +%s%N)
found=$(busybox wget -q -O - $server/file | sha256sum | busybox cut -d ' ' -f 1)
ms=$((($(date +%s%N) - begun) / 1000000))
[ "$found" = "$wanted" ] || { echo "the file is broken: $found, not $wanted" >&2; exit 1; }
echo "256 MiB in $ms ms, sha256 as it must be"

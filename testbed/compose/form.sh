#!/bin/sh
# Makes the cluster: one edge founds it, the others join with a token that is handed over as a file. Run again, it does
# what is missing: an edge whose volume is gone joins anew, under a new id.
set -eu

edges="edge-1 edge-2 edge-3"
on() { edge=$1; shift; pontoon --socket "/run/$edge/control.sock" "$@"; }

for edge in $edges; do
    tries=0
    until on "$edge" status > /dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { echo "form: $edge does not answer" >&2; exit 1; }
        sleep 0.1
    done
done

# Whoever is a member already has the others in.
host=
for edge in $edges; do
    if [ -z "$host" ] && ! on "$edge" -o json status | busybox grep -q '"cluster": *null'; then host=$edge; fi
done
if [ -z "$host" ]; then
    host=edge-1
    on $host init --name compose
fi
on "$host" wait --for quorum --timeout 60s
umask 077
on "$host" token create --uses 3 > /run/token/join
for edge in $edges; do
    [ "$edge" = "$host" ] || on "$edge" join "198.18.0.1${host#edge-}:7400" --token "$(cat /run/token/join)"
done

# The secret of the client: made here, and nowhere else.
if [ ! -s /run/secrets/alice.psk ]; then
    # One that begins with 0s or 0x would be another encoding to strongSwan.
    printf 'k%s' "$(busybox head -c 24 /dev/urandom | busybox base64)" > /run/secrets/alice.psk
    printf 'secrets { ike-alice { id = alice\n secret = %s } }\n' "$(cat /run/secrets/alice.psk)" > /run/secrets/swanctl.conf
fi
cp /etc/pontoon/gateway.toml /tmp/gateway.toml
cp /run/secrets/alice.psk /tmp/alice.psk
on "$host" config apply /tmp/gateway.toml
on "$host" status

#!/usr/bin/env bash
# Runs the members of the Procfile until Ctrl-C, then stops them and waits until each has closed its files.
#
#   packaging/cluster.sh [BINARY]
#
# Each member's log is a file beside its data, in the directory that DATA names (cluster.etcd). What is there from an earlier
# run is gone on with.
set -u
binary=${1:+$(realpath "$1")}
cd "$(dirname "$0")/.." || exit 1
export QUORATE=${binary:-target/release/quorate} DATA=${DATA:-cluster.etcd}
[ -x "$QUORATE" ] || { echo "$QUORATE is no program: build it with 'make release'" >&2; exit 1; }
mkdir -p -m 0700 "$DATA"

names=() processes=()
stopping=
stop() {
    stopping=yes
    kill -TERM "${processes[@]}" 2>/dev/null
}
trap stop INT TERM

while IFS=: read -r name command; do
    case $name in '' | '#'*) continue ;; esac
    : >"$DATA/$name.log"
    # A group of its own: Ctrl-C is this script's to pass on.
    setsid sh -c "$command" </dev/null >>"$DATA/$name.log" 2>&1 &
    names+=("$name") processes+=($!)
done <Procfile

ready() { grep -qs '"ready to serve client requests"' "$DATA/$1.log"; }

for at in "${!names[@]}"; do
    until ready "${names[$at]}" || [ -n "$stopping" ]; do
        if ! kill -0 "${processes[$at]}" 2>/dev/null; then
            echo "${names[$at]} has ended; the last lines of $DATA/${names[$at]}.log:" >&2
            tail -n 3 "$DATA/${names[$at]}.log" >&2
            stop
            break
        fi
        sleep 0.1
    done
done
if [ -z "$stopping" ]; then
    echo "${names[*]} serve; logs and data are in $DATA; Ctrl-C stops them"
    sed -n 's/^\([a-z0-9]*\):.*--advertise-client-urls \([^ ]*\).*/  \1  \2/p' Procfile
fi

# A signal ends the wait, not the members.
status=0
for at in "${!names[@]}"; do
    while wait "${processes[$at]}"; code=$?; kill -0 "${processes[$at]}" 2>/dev/null; do :; done
    # 143: a member dies of the signal that stopped it.
    if [ "$code" != 143 ] && [ "$code" != 130 ]; then
        echo "${names[$at]} ended with status $code; see $DATA/${names[$at]}.log" >&2
        status=1
        [ -n "$stopping" ] || stop
    fi
done
exit $status

#!/bin/sh
# A container: `onstart FILE` runs a script and goes on, `entrypoint WORD...` ends with its program.
# Standard input is held by the fake Vast: when that ends, all of this ends.
exec 3<&0 </dev/null
(
    cat <&3 >/dev/null 2>&1
    kill -KILL 0
) &
exec 3<&-
how=$1
shift
if [ "$how" = entrypoint ]; then
    "$@"
    status=$?
    echo "container ended with $status"
    exit $status
fi
if command -v bash >/dev/null 2>&1; then
    bash "$1"
else
    sh "$1"
fi
echo "onstart ended with $?"
wait

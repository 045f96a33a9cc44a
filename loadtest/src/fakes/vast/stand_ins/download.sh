#!/bin/sh
# wget and curl: what is asked of this machine is really asked; anything else would be a download, and a script in its place
# starts the image's engine.
program=${0##*/}
remote=
loopback=
output=
named=
previous=
for word in "$@"; do
    case $word in
    http://127.* | http://localhost* | http://\[::1\]* | https://127.* | https://localhost*) loopback=1 ;;
    http://* | https://*) remote=$word ;;
    esac
    case $previous in
    -O | -*O) [ "$program" = wget ] && output=$word ;;
    -o | --output | -*o) [ "$program" = curl ] && output=$word ;;
    --output-document) output=$word ;;
    esac
    case $word in
    --output-document=* | --output=*) output=${word#*=} ;;
    -O- | -qO- | -nvO-) output=- ;;
    -O | --remote-name | -LO | -fLO | -sLO | -fsSLO) [ "$program" = curl ] && named=1 ;;
    esac
    previous=$word
done
if [ -n "$loopback" ] || [ -z "$remote" ]; then
    # A port of this container has another number outside.
    count=$#
    while [ "$count" -gt 0 ]; do
        word=$1
        shift
        case $word in
        http://127.0.0.1:* | http://localhost:*)
            rest=${word#http://*:}
            port=${rest%%/*}
            outside=
            case $port in
            '' | *[!0-9]*) ;;
            *) eval "outside=\${VAST_TCP_PORT_$port:-}" ;;
            esac
            if [ -n "$outside" ]; then word=http://127.0.0.1:$outside${rest#"$port"}; fi
            ;;
        esac
        set -- "$@" "$word"
        count=$((count - 1))
    done
    PATH=$FAKE_VAST_REAL_PATH
    export PATH
    exec "$program" "$@"
fi
if [ "$program" = wget ] && [ -z "$output" ] || [ -n "$named" ]; then
    output=${remote##*/}
fi
echo "$program: $remote is not downloaded here" >&2
script() {
    echo '#!/bin/sh'
    echo "# in place of $remote"
    # shellcheck disable=SC2016 # expanded when it runs
    echo 'exec $FAKE_VAST_LAUNCHER ${MODEL_ARGS:-} --port "$FAKE_VAST_ENGINE_PORT"'
}
case $output in
'' | -) script ;;
*) script >"$output" ;;
esac

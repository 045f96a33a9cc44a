//! A few lines of shell before the user's onstart script: a machine whose gateway is gone ends itself.

use std::time::Duration;

use crate::domain::InstallationId;

/// What machines need to know to end themselves.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Preamble {
    pub(super) gateway_url: String,
    /// `None`: Vast's own.
    pub(super) market_url: Option<String>,
    pub(super) orphan_after: Duration,
}

/// Asks are `orphan_after` / 20 apart, within these bounds.
const ASK_EVERY_S: std::ops::RangeInclusive<u64> = 1..=30;

/// POSIX sh, below `PREAMBLE_BYTES_MAX`. It counts by the machine's uptime: clocks jump.
pub(super) fn script(installation: &InstallationId, orphan_after: Duration) -> String {
    let orphan_s = orphan_after.as_secs().max(1);
    let every_s = (orphan_s / 20).clamp(*ASK_EVERY_S.start(), *ASK_EVERY_S.end());
    SCRIPT
        .replace("INSTALLATION", installation.as_str())
        .replace("ORPHAN_S", &orphan_s.to_string())
        .replace("EVERY_S", &every_s.to_string())
}

/// `r METHOD URL [HEADER]`: curl, else wget, else Python. Only a 2xx is an answer.
const SCRIPT: &str = r#"(trap '' HUP
has(){ command -v $1;}
r(){ if has curl;then curl -fsLm 10 -X $1 ${3:+-H "$3"} "$2"
elif has wget&&wget -qO- -T 10 -t 1 ${3:+--method=$1 --header="$3"} "$2";then :
else python3 -c 'import sys,urllib.request as u
a=sys.argv
u.urlopen(u.Request(a[2],method=a[1],headers=dict([a[3].split(": ")]) if a[3] else {}),timeout=10)' $1 "$2" "$3";fi;}
up(){ read -r u _ </proc/uptime;u=${u%.*};}
up;s=$u
while sleep EVERY_S;do
if r GET "$TIDEGATE_URL/tidegate/alive/INSTALLATION/$TIDEGATE_WORKER";then up;s=$u;fi
up;[ $((u-s)) -lt ORPHAN_S ]||r DELETE "${TIDEGATE_MARKET_URL:-https://console.vast.ai}/api/v0/instances/$CONTAINER_ID/" "Authorization: Bearer $CONTAINER_API_KEY"
done) </dev/null >/dev/null 2>&1 &
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::PREAMBLE_BYTES_MAX;

    #[test]
    fn the_script_is_as_short_as_is_allowed_for() {
        let installation = InstallationId::new("a".repeat(36));
        let script = script(&installation, Duration::from_secs(86_400));
        assert!(script.len() < PREAMBLE_BYTES_MAX, "{}", script.len());
        for word in ["INSTALLATION", "ORPHAN_S", "EVERY_S"] {
            assert!(!script.contains(word), "{word}");
        }
    }

    #[test]
    fn machines_ask_often_enough_and_not_too_often() {
        let every = |orphan_s| {
            let script = script(&InstallationId::new("i"), Duration::from_secs(orphan_s));
            let (_, rest) = script.split_once("while sleep ").expect("a loop");
            rest.split(';').next().map(str::to_owned)
        };
        assert_eq!(every(3).as_deref(), Some("1"));
        assert_eq!(every(600).as_deref(), Some("30"));
        assert_eq!(every(200).as_deref(), Some("10"));
    }
}

//! Moments and spans as people write them. Always UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, in Unix milliseconds, by this machine's clock.
#[must_use]
pub fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Now, in Unix seconds, by this machine's clock.
#[must_use]
pub fn now_unix_s() -> u64 {
    now_unix_ms() / 1_000
}

/// `2026-11-22 21:40:12`; `-` for zero, which is no moment in any message.
#[must_use]
pub fn moment(unix_s: u64) -> String {
    if unix_s == 0 {
        return "-".into();
    }
    let (year, month, day) = date(unix_s / DAY_S);
    let second = unix_s % DAY_S;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
}

/// `250 ms`, `12 s`, `5 min`, `3 h 20 min`, `12 d`.
#[must_use]
pub fn span_ms(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0 => format!("{ms} ms"),
        1..=119 => format!("{s} s"),
        120..=7_199 => format!("{} min", s / 60),
        7_200..=172_799 => format!("{} h {} min", s / 3_600, s / 60 % 60),
        _ => format!("{} d", s / DAY_S),
    }
}

/// `90s`, `15m`, `1h`, `7d`, in seconds.
///
/// # Errors
/// Says which forms there are.
pub fn parse_span_s(text: &str) -> Result<u64, String> {
    let fault = || format!("{text:?} is no span of time: write 90s, 15m, 1h or 7d");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_s = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => DAY_S,
        _ => return Err(fault()),
    };
    let number: u64 = digits.parse().map_err(|_| fault())?;
    number.checked_mul(unit_s).ok_or_else(fault)
}

/// `2026-11-22`, `2026-11-22T21:00`, `2026-11-22 21:00:00Z`, Unix seconds, or how long ago: `24h`.
///
/// # Errors
/// Says which forms there are.
pub fn parse_moment(text: &str) -> Result<u64, String> {
    if let Ok(unix_s) = text.parse::<u64>() {
        return Ok(unix_s);
    }
    if let Ok(ago_s) = parse_span_s(text) {
        return Ok(now_unix_s().saturating_sub(ago_s));
    }
    parse_date_and_time(text).ok_or_else(|| {
        format!("{text:?} is no moment: write 2026-11-22, 2026-11-22T21:00 (UTC), Unix seconds, or 24h for a day ago")
    })
}

fn parse_date_and_time(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (day, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00"));
    let numbers = |text: &str, separator| -> Option<Vec<u64>> {
        text.split(separator).map(|part| part.parse().ok()).collect()
    };
    let (day, time) = (numbers(day, '-')?, numbers(time, ':')?);
    let &[year @ 1970..=9999, month @ 1..=12, day @ 1..=31] = &day[..] else { return None };
    let (hour, minute, second) = match time[..] {
        [hour, minute] => (hour, minute, 0),
        [hour, minute, second] => (hour, minute, second),
        _ => return None,
    };
    if hour > 23 || minute > 59 || second > 59 || date(days(year, month, day)) != (year, month, day) {
        return None;
    }
    Some(days(year, month, day) * DAY_S + hour * 3_600 + minute * 60 + second)
}

/// Days since 1970-01-01 of a date from 1970 on, in the proleptic Gregorian calendar. Years begin in March, so that the
/// leap day is a year's last (H. Hinnant, "chrono-compatible low-level date algorithms").
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_era = year % 400 * 365 + year % 400 / 4 - year % 400 / 100 + day_of_year;
    (year / 400 * 146_097 + day_of_era).saturating_sub(719_468)
}

/// The inverse of [`days`].
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = days / 146_097 * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

const DAY_S: u64 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_shown_in_utc() {
        assert_eq!(moment(1_000_000_000), "2001-09-09 01:46:40");
        assert_eq!(moment(951_782_399), "2000-02-28 23:59:59");
        assert_eq!(moment(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(moment(4_102_444_800), "2100-01-01 00:00:00");
        assert_eq!(moment(0), "-");
    }

    #[test]
    fn what_is_shown_is_read_again() {
        for unix_s in
            [1, 951_782_399, 951_868_800, 1_000_000_000, 1_709_164_800, 4_102_444_800, 7_258_118_399]
        {
            assert_eq!(parse_moment(&moment(unix_s)), Ok(unix_s));
        }
        assert_eq!(parse_moment("2001-09-09T01:46"), Ok(1_000_000_000 - 40));
        assert_eq!(parse_moment("1970-01-02"), Ok(86_400));
    }

    #[test]
    fn what_is_no_moment_is_refused_with_the_forms_there_are() {
        for text in
            ["", "yesterday", "2026-02-30", "2026-13-01", "2026-01-01T24:00", "1969-01-01", "1-1", "5 m"]
        {
            let fault = parse_moment(text).expect_err(text);
            assert!(fault.contains("2026-11-22T21:00"), "{fault}");
        }
    }

    #[test]
    fn spans() {
        assert_eq!(parse_span_s("90s"), Ok(90));
        assert_eq!(parse_span_s("15m"), Ok(900));
        assert_eq!(parse_span_s("2h"), Ok(7_200));
        assert_eq!(parse_span_s("7d"), Ok(604_800));
        for text in ["h", "-1h", "1w", "", "99999999999999999999d", "1.5h", "é"] {
            assert!(parse_span_s(text).is_err(), "{text}");
        }
        assert_eq!(span_ms(250), "250 ms");
        assert_eq!(span_ms(12_000), "12 s");
        assert_eq!(span_ms(300_000), "5 min");
        assert_eq!(span_ms(12_000_000), "3 h 20 min");
        assert_eq!(span_ms(30 * 86_400_000), "30 d");
    }
}

//! Numbers for people to read: 12,345 · 35.2 MiB · 2 min 03 s.

/// Formats a number with a comma between thousands.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a rate, such as tokens per second: without a fraction from 100 on.
pub fn rate(number: f64) -> String {
    if number < 100.0 { format!("{number:.1}") } else { thousands(number.round() as u64) }
}

/// Formats bytes in the largest binary unit that is not larger than the number.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let power = ((number.ilog2() / 10) as usize).min(UNITS.len());
    format!("{:.1} {}", number as f64 / 1024f64.powi(power as i32), UNITS[power - 1])
}

/// Reads a number of bytes, such as 500MB or 2GiB.
///
/// # Errors
///
/// If it is not a whole number with one of the units, or is 0.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 7] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
    ];
    let unit = UNITS.iter().find_map(|(name, bytes)| {
        let number = text.len().checked_sub(name.len()).and_then(|at| text.split_at_checked(at));
        number.filter(|(_, unit)| unit.eq_ignore_ascii_case(name)).map(|(n, _)| (n, *bytes))
    });
    let (digits, unit) = unit.unwrap_or((text, 1));
    match digits.trim().parse::<u64>().ok().and_then(|n| n.checked_mul(unit)) {
        Some(0) => Err("must be at least 1 byte".to_owned()),
        Some(bytes) => Ok(bytes),
        None => Err("must be a whole number of bytes, KB, MB, GB, KiB, MiB or GiB".to_owned()),
    }
}

/// Reads the rate of a link, such as 10Gbit or 100Mbit; returns bytes per second.
///
/// # Errors
///
/// If it is not a positive number with one of the units.
pub fn parse_link(text: &str) -> Result<f64, String> {
    const UNITS: [(&str, f64); 3] = [("Gbit", 1e9), ("Mbit", 1e6), ("kbit", 1e3)];
    let of = |(unit, bits): (&str, f64)| {
        let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        (number.is_finite() && number > 0.0).then_some(number * bits / 8.0)
    };
    UNITS.into_iter().find_map(of).ok_or("must be a rate such as 10Gbit or 100Mbit".to_owned())
}

/// Formats a count in millions or billions.
pub fn millions(number: u64) -> String {
    match number {
        0..10_000 => thousands(number),
        10_000..1_000_000_000 => format!("{:.2} M", number as f64 / 1e6),
        _ => format!("{:.2} G", number as f64 / 1e9),
    }
}

/// Formats a duration.
pub fn seconds(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// Formats a moment as `20261124-041033`, in UTC, from seconds since 1970 in the Gregorian calendar.
pub fn timestamp(unix_seconds: u64) -> String {
    let (mut day, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= months[month] {
        day -= months[month];
        month += 1;
    }
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year}{:02}{:02}-{hour:02}{minute:02}{:02}", month + 1, day + 1, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_kinds_of_units() {
        assert_eq!(parse_bytes("5GB"), Ok(5_000_000_000));
        assert_eq!(parse_bytes("2GiB"), Ok(2 << 30));
        assert_eq!(parse_bytes("300 kb"), Ok(300_000));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        for wrong in ["", "GB", "0MB", "1.5GB", "-1GB", "99999999999GB", "5TB", "é"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(128 << 20), "128.0 MiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(seconds(0.25), "0.2 s");
        assert_eq!(seconds(59.7), "1 min 00 s");
        assert_eq!(seconds(7265.0), "2 h 01 min");
        assert_eq!(millions(941_312), "0.94 M");
    }

    #[test]
    fn moments_are_of_the_gregorian_calendar() {
        assert_eq!(timestamp(0), "19700101-000000");
        assert_eq!(timestamp(951_782_400 + 86_399), "20000229-235959");
        assert_eq!(timestamp(1_772_323_200), "20260301-000000");
    }
}

//! Calendar dates for templates that ask for today's: `strftime` of a UTC time, in English.

use std::fmt::Write;

const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Formats `seconds` since 1970-01-01 00:00 UTC. `Err` holds a directive that is not known.
pub(crate) fn strftime(format: &str, seconds: u64) -> Result<String, String> {
    let days = seconds / 86_400;
    let (year, month, day) = date(days);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let hour12 = (hour + 11) % 12 + 1;
    let half = if hour < 12 { "AM" } else { "PM" };
    let weekday = DAYS[(days % 7) as usize];
    let month_name = MONTHS[month as usize - 1];
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = rest.next().unwrap_or(' ');
        let bare = directive == '-';
        if bare {
            directive = rest.next().unwrap_or(' ');
        }
        let number = match directive {
            'd' => day,
            'm' => month,
            'H' => hour,
            'I' => hour12,
            'M' => minute,
            'S' => second,
            'y' => year % 100,
            'Y' => year,
            'j' => days - days_before(year) + 1,
            'e' => day,
            _ => 0,
        };
        let written = match directive {
            'Y' => write!(out, "{year}"),
            'j' if !bare => write!(out, "{number:03}"),
            'e' if !bare => write!(out, "{number:2}"),
            'd' | 'm' | 'H' | 'I' | 'M' | 'S' | 'y' if !bare => write!(out, "{number:02}"),
            'd' | 'm' | 'H' | 'I' | 'M' | 'S' | 'y' | 'j' | 'e' => write!(out, "{number}"),
            'A' => out.write_str(weekday),
            'a' => out.write_str(&weekday[..3]),
            'B' => out.write_str(month_name),
            'b' | 'h' => out.write_str(&month_name[..3]),
            'p' => out.write_str(half),
            'F' => write!(out, "{year}-{month:02}-{day:02}"),
            'T' => write!(out, "{hour:02}:{minute:02}:{second:02}"),
            'D' => write!(out, "{month:02}/{day:02}/{:02}", year % 100),
            'Z' => out.write_str("UTC"),
            'z' => out.write_str("+0000"),
            '%' => out.write_str("%"),
            other => return Err(format!("%{other}")),
        };
        written.map_err(|error| error.to_string())?;
    }
    Ok(out)
}

/// Year, month (1..=12) and day (1..=31) of a day counted from 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    let mut year = 1970 + days / 366;
    while days_before(year + 1) <= days {
        year += 1;
    }
    let mut left = days - days_before(year);
    for month in 1..12 {
        let length = match month {
            2 => 28 + u64::from(is_leap(year)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if left < length {
            return (year, month, left + 1);
        }
        left -= length;
    }
    (year, 12, left + 1)
}

/// Days from 1970-01-01 to the first of January of `year`.
fn days_before(year: u64) -> u64 {
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    (year - 1970) * 365 + leaps(year - 1) - leaps(1969)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        let all = "%Y-%m-%d %H:%M:%S %A %a %B %b %j %I %p %-d %e %y %%";
        assert_eq!(strftime(all, 0).unwrap(), "1970-01-01 00:00:00 Thursday Thu January Jan 001 12 AM 1  1 70 %");
        assert_eq!(
            strftime(all, 951_827_696).unwrap(),
            "2000-02-29 12:34:56 Tuesday Tue February Feb 060 12 PM 29 29 00 %"
        );
        assert_eq!(strftime("%F %T %D", 4_102_444_799).unwrap(), "2099-12-31 23:59:59 12/31/99");
        assert_eq!(strftime("%d %b %Y", 1_735_689_600).unwrap(), "01 Jan 2025");
    }

    #[test]
    fn unknown_directives_are_named() {
        assert_eq!(strftime("%Q", 0), Err("%Q".to_owned()));
        assert_eq!(strftime("100%", 0), Err("% ".to_owned()));
    }
}

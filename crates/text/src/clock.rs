//! Calendar dates for templates that ask for today's: `strftime` of a UTC time, in English.

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
        match (number(directive, seconds), word(directive, seconds)) {
            (Some((number, _)), _) if bare => out.push_str(&number.to_string()),
            (Some((number, width)), _) => {
                let fill = if directive == 'e' { ' ' } else { '0' };
                let digits = number.to_string();
                out.extend(std::iter::repeat_n(fill, width - digits.len().min(width)));
                out.push_str(&digits);
            }
            (None, Some(word)) => out.push_str(&word),
            (None, None) => return Err(format!("%{directive}")),
        }
    }
    Ok(out)
}

/// A directive that is a number, and its width.
fn number(directive: char, seconds: u64) -> Option<(u64, usize)> {
    let days = seconds / 86_400;
    let (year, month, day) = date(days);
    let hour = seconds / 3600 % 24;
    Some(match directive {
        'd' | 'e' => (day, 2),
        'm' => (month, 2),
        'H' => (hour, 2),
        'I' => ((hour + 11) % 12 + 1, 2),
        'M' => (seconds / 60 % 60, 2),
        'S' => (seconds % 60, 2),
        'y' => (year % 100, 2),
        'Y' => (year, 4),
        'j' => (days - days_before(year) + 1, 3),
        _ => return None,
    })
}

/// A directive that is a word, or several others.
fn word(directive: char, seconds: u64) -> Option<String> {
    let days = seconds / 86_400;
    let weekday = DAYS[(days % 7) as usize];
    let month = MONTHS[date(days).1 as usize - 1];
    let word = match directive {
        'A' => weekday,
        'a' => &weekday[..3],
        'B' => month,
        'b' | 'h' => &month[..3],
        'p' if seconds / 3600 % 24 < 12 => "AM",
        'p' => "PM",
        'Z' => "UTC",
        'z' => "+0000",
        '%' => "%",
        'F' => return strftime("%Y-%m-%d", seconds).ok(),
        'T' => return strftime("%H:%M:%S", seconds).ok(),
        'D' => return strftime("%m/%d/%y", seconds).ok(),
        _ => return None,
    };
    Some(word.to_owned())
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

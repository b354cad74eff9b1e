//! The fields of Celery's `crontab`, as a line of our `unix` dialect.
//!
//! The two differ in little: Celery takes names of any length, those of months for weekdays too, and lists of numbers;
//! it has no `7` for Sunday and no step behind a single value.

/// `jan` is 1.
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
/// `sun` is 0.
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// The five fields of a `crontab`; what is not said is `*`.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    pub(super) minute: String,
    pub(super) hour: String,
    pub(super) day_of_week: String,
    pub(super) day_of_month: String,
    pub(super) month_of_year: String,
}

impl Default for Fields {
    fn default() -> Self {
        let star = || "*".to_owned();
        Self {
            minute: star(),
            hour: star(),
            day_of_week: star(),
            day_of_month: star(),
            month_of_year: star(),
        }
    }
}

/// What a field may hold.
struct Range {
    name: &'static str,
    min: u32,
    max: u32,
    /// Names that are written as such, for they mean the same here.
    names: &'static [&'static str],
}

impl Fields {
    /// The field of that name, as Celery and its schedulers call it.
    pub(super) fn of(&mut self, name: &str) -> Option<&mut String> {
        Some(match name {
            "minute" => &mut self.minute,
            "hour" => &mut self.hour,
            "day_of_week" => &mut self.day_of_week,
            "day_of_month" => &mut self.day_of_month,
            "month_of_year" => &mut self.month_of_year,
            _ => return None,
        })
    }

    /// Whether both kinds of days are restricted, so that it matters how they go together.
    pub(super) fn restricts_days_twice(&self) -> bool {
        self.day_of_month.trim() != "*" && self.day_of_week.trim() != "*"
    }

    /// The line.
    ///
    /// # Errors
    /// The field that Celery would refuse too, and why.
    pub(super) fn line(&self) -> Result<String, String> {
        let range = |name, min, max, names| Range { name, min, max, names };
        Ok([
            range("minute", 0, 59, &[]).read(&self.minute)?,
            range("hour", 0, 23, &[]).read(&self.hour)?,
            range("day_of_month", 1, 31, &[]).read(&self.day_of_month)?,
            range("month_of_year", 1, 12, &MONTHS).read(&self.month_of_year)?,
            range("day_of_week", 0, 6, &WEEKDAYS).read(&self.day_of_week)?,
        ]
        .join(" "))
    }
}

impl Range {
    fn read(&self, text: &str) -> Result<String, String> {
        // A list or a set of numbers, as Python writes it.
        let text = text.trim().trim_matches(['{', '}', '[', ']', '(', ')']);
        let parts: Result<Vec<String>, String> = text.split(',').map(|part| self.part(part.trim())).collect();
        Ok(parts?.join(","))
    }

    fn part(&self, part: &str) -> Result<String, String> {
        let (values, step) = match part.split_once('/') {
            Some((values, step)) => (values, Some(step)),
            None => (part, None),
        };
        let step = match step.map(str::parse::<u32>) {
            None => String::new(),
            Some(Ok(step)) if step > 0 => format!("/{step}"),
            Some(_) => return Err(self.refusal(part, "a step of 1 at least")),
        };
        if values == "*" {
            return Ok(format!("*{step}"));
        }
        match values.split_once('-') {
            Some((first, last)) => Ok(format!("{}-{}{step}", self.value(first)?, self.value(last)?)),
            None if step.is_empty() => self.value(values),
            None => Err(self.refusal(part, "a step behind `*` or a range")),
        }
    }

    fn value(&self, text: &str) -> Result<String, String> {
        let text = text.trim();
        if let Ok(number) = text.parse::<u32>() {
            if (self.min..=self.max).contains(&number) {
                return Ok(number.to_string());
            }
            let is_sunday = self.name == "day_of_week" && number == 7;
            let expected = format!("{} to {}", self.min, self.max);
            let hint = if is_sunday { "; Sunday is 0" } else { "" };
            return Err(self.refusal(text, &(expected + hint)));
        }
        let short: String = text.chars().take(3).flat_map(char::to_lowercase).collect();
        if self.names.contains(&short.as_str()) {
            return Ok(short);
        }
        // Celery looks among the months first, whatever the field.
        let month = MONTHS.iter().zip(1..).find(|(name, _)| **name == short);
        let number = month.or_else(|| WEEKDAYS.iter().zip(0..).find(|(name, _)| **name == short));
        match number {
            Some((_, number)) if (self.min..=self.max).contains(&number) => Ok(number.to_string()),
            _ => Err(self.refusal(text, "a number, or a name of a month or weekday")),
        }
    }

    fn refusal(&self, found: &str, expected: &str) -> String {
        let found: String = found.chars().take(40).collect();
        format!("{}: expected {expected}, found {found:?}; Celery refuses it too", self.name)
    }
}

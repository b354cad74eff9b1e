use std::time::Duration;

use super::super::words::split;
use super::unit::{Assignment, Span, read, span};

#[test]
fn assignments_go_on_over_lines_and_are_taken_back() {
    let text = "a=b\n[S]\na = 1 \nb=2 \\\n  # no\n  3 \\\n4\na=\n; c=1\nc\n";
    let (found, strange) = read(text);
    let b = Assignment { line: 4, section: "S".into(), key: "b".into(), value: "2  3  4".into() };
    assert_eq!((found, strange), (vec![b], vec![1, 10]));
}

#[test]
fn words_are_taken_out_of_their_quotes() {
    let is = |value, expected: &[&str]| assert_eq!(split(value).expect("words"), expected, "{value}");
    is(r#"/bin/a "b c" 'd"e' f\ g "h\"i" '' j"k"l"#, &["/bin/a", "b c", "d\"e", "f g", "h\"i", "", "jkl"]);
    is(r"a\n\t\sb", &["a\n\t b"]);
    assert_eq!((split("'a"), split("a\\")), (None, None));
}

#[test]
fn spans_are_those_of_systemd() {
    let seconds = |value| match span(value) {
        Some(Span::For(span)) => Some(span.as_secs_f64()),
        Some(Span::Endless) => Some(f64::INFINITY),
        None => None,
    };
    assert_eq!(seconds("90"), Some(90.0));
    assert_eq!(seconds("5min 20s"), Some(320.0));
    assert_eq!(seconds("1h30m"), Some(5_400.0));
    assert_eq!(seconds("1.5 h"), Some(5_400.0));
    assert_eq!(seconds("infinity"), Some(f64::INFINITY));
    assert_eq!(span("50ms"), Some(Span::For(Duration::from_millis(50))));
    for text in ["", "x", "5 fortnights", "-1", "1e9999999999y", "99999999999999999999y"] {
        assert_eq!(seconds(text), None, "{text}");
    }
}

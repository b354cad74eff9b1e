//! Tables of texts, values and what becomes of them, hostile values among them; what a value cannot do is checked with
//! the readers that the requests meet.

use super::*;

const HOSTILE: &[&str] = &[
    "",
    ".",
    "..",
    "../..",
    "%2e%2e",
    "/",
    "//evil.example/",
    "\\evil.example",
    "@evil.example",
    ":80",
    "?admin=1",
    "&admin=1",
    "=",
    "#",
    ";",
    "+",
    "%",
    "%2F",
    "%00",
    "a b",
    "\"",
    "\\",
    "\\\"",
    "\", \"admin\": true, \"x\": \"",
    "\u{0}",
    "\r\nx-admin: 1",
    "\t",
    "{{ params.b }}",
    "}}",
    "ü",
    "\u{202e}",
    "\u{2028}",
    "😀",
    "http://evil.example",
];

fn params(values: &[(&str, &str)]) -> Params {
    values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn typed(kind: &str) -> BTreeMap<String, String> {
    [("Content-Type".to_owned(), kind.to_owned())].into()
}

#[test]
fn a_param_stands_between_braces_and_all_else_is_left_as_it_is() {
    let of = params(&[("a", "1"), ("b_2", "two")]);
    for (text, filled) in [
        ("", Ok("")),
        ("none", Ok("none")),
        ("{{ params.a }}", Ok("1")),
        ("{{params.a}}", Ok("1")),
        ("{{   params.b_2 }}-{{ params.a}}", Ok("two-1")),
        ("{{{ params.a }}}", Ok("{1}")),
        (
            "{{ user }} {{ paramsx }} {{ params_a }} {{ {% params.a %} }}",
            Ok("{{ user }} {{ paramsx }} {{ params_a }} {{ {% params.a %} }}"),
        ),
        ("{{", Ok("{{")),
        ("ü {{ params.a }} ü", Ok("ü 1 ü")),
        ("a {{ params }}", Err(TemplateError::Form(2))),
        ("{{ params. }}", Err(TemplateError::Form(0))),
        ("{{ params.A }}", Err(TemplateError::Form(0))),
        ("{{ params.2 }}", Err(TemplateError::Form(0))),
        ("{{ params.a | upper }}", Err(TemplateError::Form(0))),
        ("{{ params.a }", Err(TemplateError::Form(0))),
        ("{{ params.a", Err(TemplateError::Form(0))),
        ("{{ params['a'] }}", Err(TemplateError::Form(0))),
        ("{{ params.c }}", Err(TemplateError::Unknown("c".to_owned()))),
    ] {
        assert_eq!(header("x", text, &of), filled.map(Cow::from), "{text}");
    }
    let many = |count| "{{ params.a }}".repeat(count);
    assert_eq!(header("x", &many(TEMPLATE_PARAMS), &of).unwrap().len(), TEMPLATE_PARAMS);
    assert_eq!(header("x", &many(TEMPLATE_PARAMS + 1), &of), Err(TemplateError::TooMany));
}

#[test]
fn what_a_value_says_is_not_read_again() {
    let of = params(&[("a", "{{ params.b }}"), ("b", "secret")]);
    assert_eq!(header("x", "{{ params.a }}", &of).unwrap(), "{{ params.b }}");
    assert_eq!(json("[\"{{ params.a }}\"]", &of).unwrap(), "[\"{{ params.b }}\"]");
}

#[test]
fn a_param_stands_where_it_cannot_say_where_a_request_goes() {
    let of = params(&[("a", "v")]);
    for (text, filled) in [
        ("https://h/{{ params.a }}", Ok("https://h/v")),
        (
            "HTTP://h:80/x{{ params.a }}.json?q={{ params.a }}&{{ params.a }}=1",
            Ok("HTTP://h:80/xv.json?q=v&v=1"),
        ),
        ("https://h?q={{ params.a }}#top", Ok("https://h?q=v#top")),
        ("https://u:p@[::1]:8/{{ params.a }}", Ok("https://u:p@[::1]:8/v")),
        ("{{ params.a }}", Err(TemplateError::UrlPart)),
        ("{{ params.a }}://h/", Err(TemplateError::UrlPart)),
        ("https://{{ params.a }}", Err(TemplateError::UrlPart)),
        ("https://{{ params.a }}/", Err(TemplateError::UrlPart)),
        ("https://h.{{ params.a }}/", Err(TemplateError::UrlPart)),
        ("https://h:{{ params.a }}/", Err(TemplateError::UrlPart)),
        ("https://u:{{ params.a }}@h/", Err(TemplateError::UrlPart)),
        // Readers of URLs take each of these for a host.
        ("https:/{{ params.a }}/", Err(TemplateError::UrlPart)),
        ("https:{{ params.a }}/", Err(TemplateError::UrlPart)),
        ("https:///{{ params.a }}/", Err(TemplateError::UrlPart)),
        ("https://\\{{ params.a }}/", Err(TemplateError::UrlPart)),
        ("https://\t/{{ params.a }}/", Err(TemplateError::UrlBlank)),
        (" https://h/{{ params.a }}", Err(TemplateError::UrlPart)),
        ("https://h/.\t{{ params.a }}", Err(TemplateError::UrlBlank)),
        ("https://h/{{ params.a }} ", Err(TemplateError::UrlBlank)),
        ("https://h/#{{ params.a }}", Err(TemplateError::UrlPart)),
        ("ftp://h/{{ params.a }}", Err(TemplateError::UrlPart)),
        ("https://h/%{{ params.a }}", Err(TemplateError::CutEscape)),
        ("https://h/%2{{ params.a }}", Err(TemplateError::CutEscape)),
        ("https://h/%20{{ params.a }}", Ok("https://h/%20v")),
        // Without params it is none of our business.
        ("https:/h", Ok("https:/h")),
    ] {
        assert_eq!(url(text, &of), filled.map(Cow::from), "{text}");
    }
}

#[test]
fn a_segment_that_would_go_away_or_up_is_refused() {
    for (text, value, is_refused) in [
        ("https://h/users/{{ params.a }}", "", true),
        ("https://h/users/{{ params.a }}", ".", true),
        ("https://h/users/{{ params.a }}", "..", true),
        ("https://h/users/{{ params.a }}/keys", "..", true),
        ("https://h/users/.{{ params.a }}?x", ".", true),
        ("https://h/users/%2E{{ params.a }}#x", ".", true),
        ("https://h/users/{{ params.a }}{{ params.a }}", ".", true),
        ("https://h/users\\{{ params.a }}\\", "..", true),
        ("https://h/users/{{ params.a }}", "...", false),
        ("https://h/users/x{{ params.a }}", "..", false),
        ("https://h/users/{{ params.a }}", "../x", false),
        ("https://h/users?x={{ params.a }}", "..", false),
        ("https://h/../{{ params.a }}", "x", false),
    ] {
        let filled = url(text, &params(&[("a", value)]));
        assert_eq!(filled == Err(TemplateError::Segment), is_refused, "{text} {value:?}: {filled:?}");
        assert_eq!(filled.is_err(), is_refused, "{text} {value:?}: {filled:?}");
    }
}

#[test]
fn no_value_changes_more_of_a_url_than_its_own_part() {
    for text in [
        "https://u@h.example:81/a/{{ params.a }}/b?x=1&q={{ params.a }}&y=2#end",
        "https://h.example/{{ params.a }}",
        "https://h.example?{{ params.a }}",
        "https://h.example/x{{ params.a }}y{{ params.a }}",
    ] {
        let shape = |text: &str| {
            let read = url::Url::parse(text).unwrap();
            let segments = read.path_segments().unwrap().count();
            let pairs = read.query_pairs().count();
            let place = read[url::Position::BeforeScheme..url::Position::BeforePath].to_owned();
            (place, segments, pairs, read.fragment().map(str::to_owned))
        };
        let wanted = shape(&url(text, &params(&[("a", "v")])).unwrap());
        for value in HOSTILE {
            let Ok(filled) = url(text, &params(&[("a", value)])) else {
                assert!(["", ".", ".."].contains(value), "{text} {value:?}");
                continue;
            };
            if !value.is_empty() {
                assert_eq!(shape(&filled), wanted, "{text} {value:?}: {filled}");
            }
            let read = url::Url::parse(&filled).unwrap();
            if let Some((_, sent)) = read.query_pairs().find(|(name, _)| name == "q") {
                assert_eq!(sent, *value, "{filled}");
            }
        }
    }
}

#[test]
fn no_value_ends_the_string_of_json_that_it_stands_in() {
    for value in HOSTILE {
        let of = params(&[("a", value)]);
        let text = "{\"a\": \"-{{ params.a }}-\", \"b\": [1, \"{{ params.a }}\"]}";
        let filled = json(text, &of).unwrap();
        let read: serde_json::Value = serde_json::from_str(&filled).unwrap();
        assert_eq!(read, serde_json::json!({"a": format!("-{value}-"), "b": [1, value]}), "{filled}");
        for headers in
            [typed("application/json"), typed("application/ld+JSON; charset=utf-8"), BTreeMap::new()]
        {
            assert_eq!(body(text, &headers, &of).unwrap(), filled);
        }
        assert_eq!(payload(text, &of).unwrap(), filled);
    }
}

#[test]
fn a_param_outside_of_a_string_of_json_is_refused_whatever_its_value() {
    let of = params(&[("a", "1")]);
    for text in [
        "{\"n\": {{ params.a }}}",
        "{ {{ params.a }} }",
        "[1{{ params.a }}]",
        "[tru{{ params.a }}]",
        "[\"\\{{ params.a }}\"]",
        "[\"\\u00{{ params.a }}\"]",
        "[\"{{ params.a }}",
        "\"{{ params.a }}\" {{ params.a }}",
    ] {
        assert_eq!(json(text, &of), Err(TemplateError::Json), "{text}");
        assert_eq!(body(text, &typed("application/json"), &of), Err(TemplateError::Json), "{text}");
        assert_eq!(payload(text, &of), Err(TemplateError::Json), "{text}");
    }
    assert_eq!(json("{{ params.a }}", &of), Err(TemplateError::Json));
    assert_eq!(json("no JSON", &of).unwrap(), "no JSON", "without params it is whoever reads it who says");
}

#[test]
fn a_body_takes_values_by_its_content_type() {
    let of = params(&[("a", "x&\"y\" ü")]);
    for (kind, text, filled) in [
        ("text/plain", "say {{ params.a }}", Ok("say x&\"y\" ü")),
        ("Text/Plain; charset=utf-8", "[{{ params.a }}", Ok("[x&\"y\" ü")),
        ("application/x-www-form-urlencoded", "q={{ params.a }}&n=1", Ok("q=x%26%22y%22%20%C3%BC&n=1")),
        ("application/problem+json", "\"{{ params.a }}\"", Ok("\"x&\\\"y\\\" ü\"")),
        ("application/xml", "<a>{{ params.a }}</a>", Err(TemplateError::ContentType)),
        ("text/html", "{{ params.a }}", Err(TemplateError::ContentType)),
        ("", "{{ params.a }}", Err(TemplateError::ContentType)),
        ("{{ params.a }}", "{{ params.a }}", Err(TemplateError::ContentType)),
        ("application/xml", "<a>{{ user }}</a>", Ok("<a>{{ user }}</a>")),
    ] {
        assert_eq!(body(text, &typed(kind), &of), filled.map(Cow::from), "{kind}");
    }
    assert_eq!(payload("say {{ params.a }}", &of).unwrap(), "say x&\"y\" ü");
    let mut two = typed("text/plain");
    two.insert("content-type".to_owned(), "application/json".to_owned());
    assert_eq!(body("{{ params.a }}", &two, &of), Err(TemplateError::ContentType));
    assert_eq!(header("content-Type", "{{ params.a }}", &of), Err(TemplateError::TypeHeader));
    assert_eq!(header("content-Type", "text/{{ plain }}", &of).unwrap(), "text/{{ plain }}");
}

#[test]
fn stand_ins_tell_unknown_params_and_nothing_of_values() {
    let declared = params(&[("a", "")]);
    let values = stand_ins(&declared);
    assert!(url("https://h/{{ params.a }}", &values).is_ok(), "a run may have another value");
    assert_eq!(url("https://h/{{ params.b }}", &values), Err(TemplateError::Unknown("b".to_owned())));
}

use super::*;

#[test]
fn a_report_of_a_release_that_knew_no_result_is_read() {
    let old = [2, 0x95, 3, 0xc0, 0xa2, b'n', b'o', 0xc4, 1, 7, 0xc2];
    let mut report =
        Report { exit_code: Some(3), error: "no".to_owned(), output: vec![7], ..Report::default() };
    assert_eq!(super::super::command::decode::<Report>(&old).expect("it is read"), report);
    assert_eq!(super::super::command::encode(&report), old, "and it reads what says no result");
    report.result = "[1]".to_owned();
    let bytes = super::super::command::encode(&report);
    let written = [2, 0x96, 3, 0xc0, 0xa2, b'n', b'o', 0xc4, 1, 7, 0xc2, 0xa3, b'[', b'1', b']'];
    assert_eq!(bytes, written);
    assert_eq!(super::super::command::decode::<Report>(&bytes).expect("it is read"), report);
}

#[test]
fn run_ids_read_back_and_nothing_else_does() {
    let id = RunId { job: JobId(4096), at: Timestamp::from_millis(-5), seq: 0 };
    assert_eq!(id.to_string().parse(), Ok(id));
    let manual = RunId { seq: 17, ..id };
    assert_eq!(manual.to_string(), "4096--5-m17");
    assert_eq!(manual.to_string().parse(), Ok(manual));
    assert_eq!(id.at_place(3).to_string(), "4096--5-p3");
    assert_eq!(id.at_place(3).to_string().parse(), Ok(id.at_place(3)));
    let part = manual.at_place(1_000);
    assert_eq!((part.to_string().as_str(), part.number(), part.place()), ("4096--5-m17-p1000", 17, 1_000));
    assert_eq!(part.to_string().parse(), Ok(part));
    for text in [
        "",
        "x",
        "1-2-m0",
        "01-2",
        "1-+2",
        "1-2-m",
        "1-2-m03",
        "1",
        "1-2-p0",
        "1-2-p",
        "1-2-p1-m1",
        "1-2-p1024",
        "1-2-m18014398509481984",
    ] {
        assert_eq!(text.parse::<RunId>(), Err(RunIdError), "{text}");
    }
}

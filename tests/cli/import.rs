//! Imports, which need no node.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_import_writes_what_it_can_and_its_exit_code_tells_of_the_rest() {
    let nobody: SocketAddr = ([127, 0, 0, 1], 1).into();
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("it is written");
        path.display().to_string()
    };
    let whole = file("whole", "HOME=/srv\n0 3 * * * /usr/bin/clean\n");
    let lossy = file("lossy", "HOME=/srv\n@reboot /usr/bin/start\n0 3 * * * /usr/bin/clean\n");
    let broken = file("broken", "HOME=/srv\n0 3 * *\n0 3 * * * /usr/bin/clean\n");
    let import =
        async |line: String| ask(nobody, &format!("import crontab {line} --timezone Europe/Berlin")).await;
    let output = import(format!("{whole} --strict")).await;
    assert_eq!(
        (output.status.code(), text(&output.stderr)),
        (Some(0), "note: 1 jobs; 0 losses, 0 approximations\n")
    );
    assert!(text(&output.stdout).starts_with(&format!("# {whole}:2\n")), "{}", text(&output.stdout));
    let output = import(lossy.clone()).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(
        text(&output.stderr).starts_with(&format!("{lossy}:2: lost: @reboot")),
        "{}",
        text(&output.stderr)
    );
    let output = import(format!("{lossy} --strict")).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).ends_with("error: 1 jobs; 0 errors, 1 losses, 0 approximations\n"));
    let output = import(format!("{broken} -o json")).await;
    assert_eq!((output.status.code(), document(&output)[0]["name"].as_str()), (Some(1), Some("clean")));
    let task = "<Task><Triggers/></Task>";
    let wide: Vec<u8> =
        [0xff, 0xfe].into_iter().chain(task.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    std::fs::write(folder.path().join("wide"), wide).expect("it is written");
    let output = ask(nobody, &format!("import windows-task {}/wide", folder.path().display())).await;
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), ""), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("lost: no trigger"), "{}", text(&output.stderr));
    let output = import(format!("{}/none", folder.path().display())).await;
    assert_eq!(output.status.code(), Some(1));
}

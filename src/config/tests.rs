use super::*;

const SMALL: &str = r#"
node_id     = 1
listen      = "127.0.0.1:7401"
peer_listen = "127.0.0.1:7501"
data_dir    = "data/node-1"
peers       = { 1 = "127.0.0.1:7501", 2 = "127.0.0.1:7502" }
"#;

fn problems(text: &str) -> Vec<String> {
    Config::read("n.toml", text, Overrides::default()).expect_err("it is wrong").problems
}

#[test]
fn the_smallest_file_reads_with_defaults() {
    let config = Config::read("n.toml", SMALL, Overrides::default()).expect("it is right");
    assert_eq!(config.node_id, 1);
    assert_eq!(config.peers.len(), 2);
    assert_eq!(config.raft, RaftTiming::default());
    assert_eq!(config.worker, WorkerConfig::default());
    assert_eq!(config.client_address(), "127.0.0.1:7401");
}

#[test]
fn all_problems_are_told_at_once_with_their_lines() {
    let text = "node_id = 0\nlisten = \"nowhere\"\npeer_listen = \"127.0.0.1:1\"\nspeed = 3\n[raft]\nheartbeat = 5\n[worker]\nslots = 0\nqueus = []\n";
    assert_eq!(
        problems(text),
        [
            "n.toml:1: node_id: expected an integer from 1",
            "n.toml:2: listen: expected host:port",
            "n.toml:4: speed: unknown key",
            "n.toml:6: raft.heartbeat: expected a string that is not empty",
            "n.toml:8: worker.slots: expected an integer from 1 to 10000",
            "n.toml:9: worker.queus: unknown key",
            "n.toml: data_dir: is missing; expected a folder",
        ]
    );
}

#[test]
fn beyond_loopback_needs_a_word() {
    let text = SMALL.replace("127.0.0.1:7401", "0.0.0.0:7401");
    assert!(problems(&text)[0].contains("insecure = true"), "{:?}", problems(&text));
    assert!(Config::read("n.toml", &format!("insecure = true\n{text}"), Overrides::default()).is_ok());
}

#[test]
fn a_node_that_its_peers_do_not_name_is_refused() {
    let text = SMALL.replace("node_id     = 1", "node_id = 9");
    let [problem] = &problems(&text)[..] else { panic!("one problem") };
    assert!(problem.starts_with("n.toml:6: peers: does not name this node, 9; "), "{problem}");
}

#[test]
fn two_listeners_or_two_nodes_at_one_address_are_refused() {
    let text = SMALL.replace("7501\", 2", "7502\", 2").replace(":7401", ":7501");
    assert_eq!(
        problems(&text),
        [
            "n.toml:4: peer_listen: is the same as listen; clients and nodes need one each",
            "n.toml:6: peers.2: is the address of node 1",
        ]
    );
    let free =
        SMALL.replace(":7401", ":0").replace("peer_listen = \"127.0.0.1:7501", "peer_listen = \"127.0.0.1:0");
    assert!(Config::read("n.toml", &free, Overrides::default()).is_ok());
    // what a flag says has no line in the file
    let overrides = Overrides { listen: Some("127.0.0.1:7501".to_owned()), ..Overrides::default() };
    let peers = Some(BTreeMap::from([(1, "a:1".to_owned()), (2, "a:1".to_owned())]));
    let error = Config::read("n.toml", SMALL, Overrides { peers, ..overrides }).expect_err("it is wrong");
    assert_eq!(error.problems.len(), 2, "{error}");
    assert_eq!(error.problems[1], "n.toml: peers.2: is the address of node 1");
}

#[test]
fn a_flag_goes_before_its_key() {
    let overrides = Overrides {
        node_id: Some(2),
        listen: Some("127.0.0.1:1".to_owned()),
        peer_listen: Some("127.0.0.1:2".to_owned()),
        data_dir: Some("elsewhere".into()),
        peers: Some(BTreeMap::from([(2, "127.0.0.1:2".to_owned())])),
        rejoin: false,
        feature_level_max: None,
    };
    let config = Config::read("n.toml", SMALL, overrides).expect("it is right");
    assert_eq!((config.node_id, config.listen.as_str()), (2, "127.0.0.1:1"));
    assert_eq!(
        (config.peer_listen.as_str(), config.data_dir.as_path()),
        ("127.0.0.1:2", "elsewhere".as_ref())
    );
    assert_eq!(config.peers.len(), 1);
}

#[test]
fn a_node_that_rejoins_has_no_first_members() {
    let overrides = Overrides { node_id: Some(9), rejoin: true, ..Overrides::default() };
    let config = Config::read("n.toml", SMALL, overrides).expect("it is right");
    assert_eq!((config.node_id, config.rejoin, config.peers.len()), (9, true, 0));
    assert!(problems(&format!("rejoin = true\n{SMALL}"))[0].contains("unknown key"));
}

#[test]
fn text_that_is_no_toml_is_refused_with_its_line() {
    assert!(problems("node_id = 1\nlisten = \n")[0].starts_with("n.toml:2: "));
}

#[test]
fn the_example_file_states_the_defaults() {
    let text = include_str!("../../cluster/example.toml");
    let config = Config::read("example.toml", text, Overrides::default()).expect("it is right");
    assert_eq!(config.raft, RaftTiming::default());
    assert_eq!(config.worker, WorkerConfig::default());
}

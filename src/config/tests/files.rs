//! Directories: which files are read, and what is said of those that cannot be.

use super::*;

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("written");
    }
    dir
}

#[test]
fn a_directory_needs_no_server_file() {
    let dir = directory(&[("endpoints/e.yml", GOOD)]);
    let config = load(dir.path(), &env).expect("right");
    assert_eq!(config.endpoints[0].name.as_str(), "e");
}

#[test]
fn endpoints_come_in_the_order_of_their_files_and_editors_files_are_left_alone() {
    let named = |name: &str| GOOD.replace("endpoint_name: e", &format!("endpoint_name: {name}"));
    let dir = directory(&[
        ("endpoints/b.yaml", &named("first-written")),
        ("endpoints/a.yaml", &named("second-written")),
        ("endpoints/.#a.yaml", "not: ours"),
        ("endpoints/a.yaml~", "not: ours"),
        ("endpoints/README.md", "not: ours"),
    ]);
    let config = load(dir.path(), &env).expect("right");
    let names: Vec<_> = config.endpoints.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["second-written", "first-written"]);
}

#[test]
fn a_file_that_cannot_be_read_hides_no_other_mistake() {
    let dir = directory(&[
        ("tidegate.yaml", "threads: -1\n"),
        ("endpoints/e.yaml", "endpoint_name: e\n"),
    ]);
    std::fs::create_dir(dir.path().join("endpoints/folder.yaml")).expect("a folder");
    std::fs::write(dir.path().join("endpoints/latin.yaml"), b"a: \xe9\n").expect("written");
    let mistakes = load(dir.path(), &env).expect_err("mistakes");
    let said: Vec<String> = mistakes
        .iter()
        .map(|mistake| {
            let name = Path::new(&mistake.file).file_name().expect("a name");
            format!("{}:{} {}", name.display(), mistake.line, mistake.what)
        })
        .collect();
    let begin = [
        "e.yaml:1 worker_groups is missing",
        "folder.yaml:1 cannot be read",
        "latin.yaml:1 cannot be read",
        "tidegate.yaml:1 threads is -1",
    ];
    assert_eq!(said.len(), begin.len(), "{said:#?}");
    for (said, begin) in said.iter().zip(begin) {
        assert!(said.starts_with(begin), "{said}");
    }
}

#[test]
fn a_directory_without_endpoints_is_a_mistake() {
    let none = directory(&[("tidegate.yaml", "")]);
    let said = load(none.path(), &env).expect_err("no folder").to_string();
    assert!(said.contains("endpoints:1:1: cannot be read"), "{said}");
    let empty = directory(&[("endpoints/README.md", "")]);
    let said = load(empty.path(), &env).expect_err("no file").to_string();
    assert!(
        said.contains("endpoints/:1:1: there is no endpoint; expected at least one"),
        "{said}"
    );
}

#[test]
fn a_file_that_went_or_became_empty_is_a_loss_and_one_that_changed_or_came_is_not() {
    let dir = directory(&[
        ("tidegate.yaml", "threads: 1\n"),
        ("endpoints/e.yaml", GOOD),
    ]);
    let before = read_files(dir.path());
    let check = |write: &dyn Fn(&Path), lost: bool| {
        write(dir.path());
        let now = read_files(dir.path());
        assert_eq!(now.lost_something_of(&before), lost, "{now:?}");
    };
    let write = |name: &'static str, text: &'static str| {
        move |dir: &Path| std::fs::write(dir.join(name), text).expect("written")
    };
    check(&write("tidegate.yaml", "threads: 2\n"), false);
    check(&write("endpoints/f.yaml", ""), false);
    check(&write("tidegate.yaml", "\n"), true);
    check(&write("tidegate.yaml", "threads: 1\n"), false);
    check(
        &|dir| std::fs::remove_file(dir.join("endpoints/e.yaml")).expect("removed"),
        true,
    );
}

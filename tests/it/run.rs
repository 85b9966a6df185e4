//! `fnbuild run`: a save becomes what answers, a mistake does not, and nothing is left behind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::support::server::{containerd, remove_namespace};
use super::support::{Server, base, fnbuild, run, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// The program at work on a function, with a data folder and a namespace of its own.
struct Bench {
    process: Option<Server>,
    data: tempfile::TempDir,
    namespace: String,
}

impl Bench {
    fn start(source: &Path, more: &[&str]) -> Self {
        let namespace = format!("fnbuild-test-{:016x}", getrandom::u64().unwrap());
        let mut bench = Self { process: None, data: base::data_dir(), namespace };
        bench.start_again(source, more);
        bench
    }

    fn start_again(&mut self, source: &Path, more: &[&str]) {
        let file = |name| File::create(self.data.path().join(name)).unwrap();
        let mut command = fnbuild();
        command.arg("run").arg(source).args(more).env("FNBUILD_DATA_DIR", self.data.path());
        command.env("FNBUILD_NAMESPACE", &self.namespace).env("FNBUILD_CONTAINERD", containerd());
        // What is meant for a server is not meant for this.
        command.env("FNBUILD_REGISTRY", "127.0.0.1:1").env("FNBUILD_LISTEN", "127.0.0.1:1");
        command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
        self.process = Some(Server::start(&mut command));
    }

    fn stdout(&self) -> String {
        fs::read_to_string(self.data.path().join("stdout")).unwrap()
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.data.path().join("stderr")).unwrap()
    }

    #[track_caller]
    fn wait_for(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        wait_until(what, PATIENCE, || {
            let runs = self.process.as_mut().is_some_and(Server::runs);
            assert!(runs, "it ended: {}", self.stderr());
            condition(self)
        });
    }

    /// What the function answers to an empty call; nothing while it does not.
    fn answer(&self) -> String {
        let url = self.stdout().lines().next().unwrap_or_default().to_string();
        let mut curl = Command::new("curl");
        curl.args(["-s", "-m", "20", "-X", "POST", &url]);
        String::from_utf8_lossy(&curl.output().unwrap().stdout).into_owned()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.as_ref().unwrap().pid().cast_signed())
    }

    /// Ctrl-C, and the end.
    fn interrupt(&mut self) {
        kill(self.pid(), Signal::SIGINT).unwrap();
        let process = self.process.as_mut().unwrap();
        wait_until("the end", PATIENCE, || !process.runs());
        self.process = None;
    }

    fn folders(&self) -> Vec<PathBuf> {
        let folders = fs::read_dir(self.data.path().join("run")).into_iter().flatten();
        folders.map(|entry| entry.unwrap().path()).collect()
    }

    fn ctr(&self, arguments: &[&str]) -> String {
        let mut ctr = Command::new("ctr");
        run(ctr.arg("--address").arg(containerd()).args(["--namespace", &self.namespace]).args(arguments))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("it said:\n{}", self.stderr());
        }
        self.process = None;
        if let Err(error) = remove_namespace(&containerd(), &self.namespace) {
            assert!(std::thread::panicking(), "{error}");
        }
    }
}

fn function(folder: &Path, answer: &str) {
    let code = format!(
        "import os\nprint('loaded {answer}')\ndef run():\n    return '{answer}' + os.environ['END']\n"
    );
    fs::write(folder.join("func.py"), code).unwrap();
}

#[test]
fn a_save_is_what_answers_and_nothing_is_left_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    function(folder.path(), "one");
    let mut bench = Bench::start(folder.path(), &["--name", "hello", "-e", "END=!", "-d", "{}"]);
    bench.wait_for("the first answer", |bench| bench.stdout().contains("\"one!\""));
    assert!(bench.stdout().lines().next().unwrap().ends_with("/function/hello"));
    bench.wait_for("what it prints", |bench| bench.stderr().contains("stdout: loaded one"));

    function(folder.path(), "two");
    bench.wait_for("the second version", |bench| bench.stdout().contains("\"two!\""));
    assert_eq!(bench.answer(), "\"two!\"");
    bench.wait_for("what it prints", |bench| bench.stderr().contains("stdout: loaded two"));

    // As editors do it: another file takes the name.
    fs::write(folder.path().join("func.py.new"), "def run(:\n").unwrap();
    fs::rename(folder.path().join("func.py.new"), folder.path().join("func.py")).unwrap();
    bench.wait_for("the mistake", |bench| bench.stderr().contains("version 2 goes on answering"));
    let said = bench.stderr();
    assert!(said.contains("error: func.py:1:9: ") && said.contains("def run(:\n            ^"), "{said}");
    assert_eq!(bench.answer(), "\"two!\"");

    function(folder.path(), "three");
    bench.wait_for("the third version", |bench| bench.stdout().contains("\"three!\""));

    bench.interrupt();
    assert_eq!(bench.folders(), [] as [PathBuf; 0]);
    assert_eq!(
        (bench.ctr(&["containers", "ls", "-q"]), bench.ctr(&["images", "ls", "-q"])),
        Default::default()
    );
}

#[test]
fn a_file_is_followed_by_its_name_and_what_was_killed_is_removed_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hello.py");
    fs::write(&file, "def run():\n    return 1\n").unwrap();
    let mut bench = Bench::start(&file, &[]);
    bench.wait_for("the first answer", |bench| bench.answer() == "1");
    fs::write(folder.path().join("other.py"), "").unwrap();
    fs::write(&file, "def run():\n    return 2\n").unwrap();
    bench.wait_for("the second version", |bench| bench.answer() == "2");

    bench.process.as_mut().unwrap().kill();
    let left = bench.folders();
    assert_eq!(left.len(), 1);
    bench.start_again(&file, &[]);
    bench.wait_for("an answer", |bench| bench.answer() == "2");
    assert!(!left[0].exists() && bench.folders().len() == 1);
    bench.interrupt();
    assert_eq!(bench.ctr(&["containers", "ls", "-q"]), "");
}

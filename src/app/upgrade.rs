//! The new process of an upgrade: started by SIGQUIT from where the old one came, announced to a service manager.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::LazyLock;

use sd_notify::NotifyState;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// Where this program lay when it started; what lies there later may be the next version.
static PROGRAM: LazyLock<std::io::Result<PathBuf>> = LazyLock::new(std::env::current_exe);

/// To be called before anything can replace the program's file.
pub(super) fn remember_program() {
    LazyLock::force(&PROGRAM);
}

/// Until dropped: starts the program again, with the same arguments and `--upgrade`, on each SIGQUIT.
pub(super) async fn on_quit() {
    let Ok(mut quit) = signal(SignalKind::quit()) else {
        tracing::error!("SIGQUIT cannot be watched; `tidegate run --upgrade` still works");
        return std::future::pending().await;
    };
    while quit.recv().await.is_some() {
        match &*PROGRAM {
            Ok(program) => start(program.clone()),
            Err(error) => tracing::error!(%error, "no upgrade: where this program lies is unknown"),
        }
    }
}

fn start(program: PathBuf) {
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--upgrade") {
        arguments.push("--upgrade".into());
    }
    let started = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(false)
        .spawn();
    match started {
        Ok(mut child) => {
            tracing::info!(program = %program.display(), pid = child.id(), "upgrade: started");
            tokio::spawn(async move {
                // It outlives this process when all goes well.
                let ended = child.wait().await;
                tracing::warn!(status = ?ended.ok(), "the new process has ended");
            });
        }
        Err(error) => {
            tracing::error!(program = %program.display(), %error, "no upgrade: not started");
        }
    }
}

/// systemd follows the process that says so (`Type=notify`, `NotifyAccess=all`); without it this does nothing.
pub(super) fn tell_service_manager() {
    let state = [NotifyState::MainPid(std::process::id()), NotifyState::Ready];
    if let Err(error) = sd_notify::notify(&state) {
        tracing::warn!(%error, "the service manager was not told");
    }
}

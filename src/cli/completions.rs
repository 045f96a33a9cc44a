//! `tidegate completions`

use clap::CommandFactory;
use clap_complete::Shell;

use super::show;

#[derive(clap::Args)]
pub(super) struct Arguments {
    shell: Shell,
}

pub(super) fn completions(arguments: &Arguments) {
    let mut script = Vec::new();
    let mut command = super::Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, "tidegate", &mut script);
    show::print(&String::from_utf8_lossy(&script));
}

//! What a container finds instead of the programs of its image: launchers that start the stand-in worker, and downloads
//! that download nothing.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Name of a script, its text, and the other names it goes by.
const SCRIPTS: [(&str, &str, &[&str]); 5] = [
    ("container", include_str!("container.sh"), &[]),
    (
        "text-generation-launcher",
        include_str!("engine.sh"),
        &["vllm", "sglang", "llama-server"],
    ),
    ("python3", include_str!("python.sh"), &["python"]),
    ("wget", include_str!("download.sh"), &["curl"]),
    (
        "apt-get",
        include_str!("nothing.sh"),
        &[
            "apt",
            "git",
            "pip",
            "pip3",
            "uv",
            "huggingface-cli",
            "hf",
            "aria2c",
            "nvidia-smi",
        ],
    ),
];

/// Writes them into `folder`; `worker` is the program that stands in for an engine.
pub fn install(folder: &Path, worker: &Path) -> io::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    for (name, text, aliases) in SCRIPTS {
        let path = folder.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        for alias in aliases {
            symlink(name, folder.join(alias))?;
        }
    }
    symlink(worker.canonicalize()?, folder.join("fake-worker"))
}

/// The words an image starts with, where we know the image.
pub fn entrypoint(image: &str) -> Option<&'static [&'static str]> {
    let known: [(&str, &[&str]); 4] = [
        ("text-generation-inference", &["text-generation-launcher"]),
        (
            "vllm",
            &["python3", "-m", "vllm.entrypoints.openai.api_server"],
        ),
        ("sglang", &["python3", "-m", "sglang.launch_server"]),
        ("llama.cpp", &["llama-server"]),
    ];
    let found = known.iter().find(|(part, _)| image.contains(part));
    found.map(|(_, words)| *words)
}

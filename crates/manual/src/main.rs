//! Writes the man pages and the completions of bash, zsh and fish into the folder that is its argument.
//!
//! They say what the clap structs of `switchmaster::cli` say and nothing else. No other member depends on this one, so that
//! the proxy carries none of it.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};
use switchmaster::cli::Cli;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: switchmaster-manual FOLDER")?);
    let (pages, completions) = (folder.join("man"), folder.join("completions"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(Cli::command(), &pages)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut Cli::command(), "switchmaster", &completions)?;
    }
    Ok(())
}

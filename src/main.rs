//! The `tracehouse` binary; everything is in the library.

fn main() -> std::process::ExitCode {
    tracehouse::cli::main()
}

//! The `tracehouse` binary; everything is in the library.

/// Many small buffers come and go on many threads; the system's allocator keeps far more of their memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    tracehouse::cli::main()
}

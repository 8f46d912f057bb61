//! Compiles `kernels/*.cu` into compressed fatbins, which `src/modules.rs` embeds.
//! nvcc is found by `NVCC`, `CUDA_HOME`, under `target/nvcc` (where scripts/fetch_nvcc.sh puts it), on `PATH`, or in a
//! Python's `nvidia/cu13` wheels. Without it the crate builds with no kernels, and says so when a GPU is asked for.
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, thread};

/// What a kernel file is compiled for unless its first line says `// archs: …`.
const ARCHS: &str = "75 80 86 89 90a ptx";

/// Where scripts/fetch_nvcc.sh puts the compiler.
const FETCHED: &str = "../../target/nvcc/nvidia/cu13/bin/nvcc";

fn main() {
    for name in ["NVCC", "CUDA_HOME", "PLANISH_CUDA_ARCHS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=kernels");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let Some(nvcc) = find_nvcc() else {
        println!("cargo::warning=no nvcc 13.0 (see docs/gpu.md): built without GPU kernels");
        return write_list(&out, &[]);
    };
    let sources = sources();
    // Two compilers at a time: each file is compiled for its architectures one after the other.
    let jobs: Vec<Vec<PathBuf>> = (0..2).map(|i| sources.iter().skip(i).step_by(2).cloned().collect()).collect();
    let errors: Vec<String> = thread::scope(|scope| {
        let run = |job: Vec<PathBuf>| job.iter().filter_map(|s| compile(&nvcc, s, &out).err()).collect::<Vec<_>>();
        let runs: Vec<_> = jobs.into_iter().map(|job| scope.spawn(move || run(job))).collect();
        runs.into_iter().flat_map(|r| r.join().expect("a compile thread panicked")).collect()
    });
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    write_list(&out, &sources);
}

/// Kernel files in order of name.
fn sources() -> Vec<PathBuf> {
    let entries = fs::read_dir("kernels").expect("crates/cuda/kernels");
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("a readable folder").path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "cu"));
    files.sort();
    files
}

fn stem(source: &Path) -> &str {
    source.file_stem().and_then(|s| s.to_str()).expect("kernel files have plain names")
}

/// `-gencode` arguments of a file: its own `// archs:` line, cut down to `PLANISH_CUDA_ARCHS` if that is set.
fn targets(text: &str) -> Vec<String> {
    let own = text.lines().next().and_then(|l| l.strip_prefix("// archs:")).unwrap_or(ARCHS);
    let only = env::var("PLANISH_CUDA_ARCHS").ok();
    let wanted = |arch: &&str| only.as_ref().is_none_or(|o| o.split([' ', ',']).any(|a| a == *arch));
    let archs = own.split_whitespace().filter(wanted);
    archs
        .flat_map(|arch| {
            let code = match arch {
                "ptx" => "arch=compute_90,code=compute_90".to_string(),
                arch => format!("arch=compute_{arch},code=sm_{arch}"),
            };
            ["-gencode".to_string(), code]
        })
        .collect()
}

fn compile(nvcc: &Path, source: &Path, out: &Path) -> Result<(), String> {
    let text = fs::read_to_string(source).map_err(|e| format!("{}: {e}", source.display()))?;
    let to = out.join(format!("{}.fatbin", stem(source)));
    let targets = targets(&text);
    if targets.is_empty() {
        return fs::write(&to, []).map_err(|e| e.to_string());
    }
    let mut command = Command::new(nvcc);
    command.args(["-fatbin", "-std=c++17", "-O3", "--compress-mode=size", "-Ikernels"]);
    command.args(["-Werror", "all-warnings", "-diag-suppress", "177"]).args(targets).arg("-o").arg(&to).arg(source);
    let ran = command.output().map_err(|e| format!("{}: {e}", nvcc.display()))?;
    if ran.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&ran.stderr).into_owned() + &String::from_utf8_lossy(&ran.stdout);
    Err(format!("{}:\n{text}", source.display()))
}

/// `FATBINS`: name and bytes of each module.
fn write_list(out: &Path, sources: &[PathBuf]) {
    let mut text =
        String::from("/// Name and fatbin of each kernel file.\npub(crate) static FATBINS: &[(&str, &[u8])] = &[\n");
    for source in sources {
        let name = stem(source);
        let _ = writeln!(text, "    ({name:?}, include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.fatbin\"))),");
    }
    text.push_str("];\n");
    fs::write(out.join("fatbins.rs"), text).expect("OUT_DIR is writable");
}

/// The first nvcc that says it is 13.0: a newer one's code is not taken by the driver that we ask for.
fn find_nvcc() -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = Vec::new();
    places.extend(env::var_os("NVCC").map(PathBuf::from));
    places.extend(env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc")));
    places.push(PathBuf::from(FETCHED));
    let path = env::var_os("PATH").unwrap_or_default();
    places.extend(env::split_paths(&path).map(|p| p.join("nvcc")));
    places.extend(wheel());
    places.into_iter().find(|nvcc| is_13_0(nvcc))
}

fn is_13_0(nvcc: &Path) -> bool {
    let version = Command::new(nvcc).arg("--version").output();
    version.is_ok_and(|v| String::from_utf8_lossy(&v.stdout).contains("release 13.0"))
}

/// nvcc in the wheels of the Python on `PATH`.
fn wheel() -> Option<PathBuf> {
    let program = "import nvidia; print(list(nvidia.__path__)[0])";
    let asked = Command::new("python3").args(["-c", program]).output().ok()?;
    let folder = String::from_utf8(asked.stdout).ok()?;
    Some(Path::new(folder.trim()).join("cu13/bin/nvcc"))
}

//! Compiles `kernels/*.cu` into compressed fatbins, which `src/modules.rs` embeds.
//! nvcc is found by `NVCC`, `CUDA_HOME`, under `target/nvcc` (where scripts/fetch_nvcc.sh puts it), on `PATH`, or in a
//! Python's `nvidia/cu13` wheels. Without it the crate builds with no kernels, and says so when a GPU is asked for.
#[path = "build_nvrtc.rs"]
mod nvrtc;

use nvrtc::Nvrtc;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, thread};

/// What a kernel file is compiled for unless its first line says `// archs: …`.
const ARCHS: &str = "70 75 80 86 89 90a ptx";

/// Where scripts/fetch_nvcc.sh puts the compiler.
const FETCHED: &str = "../../target/nvcc/nvidia/cu13/bin/nvcc";

fn main() {
    for name in ["NVCC", "CUDA_HOME", "NVRTC", "PLANISH_CUDA_ARCHS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=kernels");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let Some(nvcc) = find_nvcc() else {
        println!("cargo::warning=no nvcc 13.0 (see docs/gpu.md): built without GPU kernels");
        return write_list(&out, &[]);
    };
    if let Err(why) = preprocesses(&nvcc, &out) {
        println!("cargo::warning=nvcc needs a C++ compiler (see docs/gpu.md): built without GPU kernels ({why})");
        return write_list(&out, &[]);
    }
    let sources = sources();
    let tools = Tools { nvrtc: Nvrtc::find(&nvcc), nvcc };
    // Two compilers at a time: each file is compiled for its architectures one after the other.
    let jobs: Vec<Vec<PathBuf>> = (0..2).map(|i| sources.iter().skip(i).step_by(2).cloned().collect()).collect();
    let errors: Vec<String> = thread::scope(|scope| {
        let run = |job: Vec<PathBuf>| job.iter().filter_map(|s| tools.compile(s, &out).err()).collect::<Vec<_>>();
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

/// Architectures of a file: its own `// archs:` line, cut down to `PLANISH_CUDA_ARCHS` if that is set.
fn archs(text: &str) -> Vec<&str> {
    let own = text.lines().next().and_then(|l| l.strip_prefix("// archs:")).unwrap_or(ARCHS);
    let only = env::var("PLANISH_CUDA_ARCHS").ok();
    let wanted = |arch: &&str| only.as_ref().is_none_or(|o| o.split([' ', ',']).any(|a| a == *arch));
    own.split_whitespace().filter(wanted).collect()
}

struct Tools {
    nvcc: PathBuf,
    nvrtc: Option<Nvrtc>,
}

impl Tools {
    /// `<name>.fatbin` for what nvcc compiles for, and `<name>.sm70.fatbin`; empty where there is nothing to compile.
    fn compile(&self, source: &Path, out: &Path) -> Result<(), String> {
        let text = fs::read_to_string(source).map_err(|e| format!("{}: {e}", source.display()))?;
        let archs = archs(&text);
        let (newer, volta) = (out.join(fatbin(source)), out.join(volta_fatbin(source)));
        let nothing = |to: &Path| fs::write(to, []).map_err(|e| e.to_string());
        match (&self.nvrtc, archs.contains(&"70")) {
            (Some(nvrtc), true) => nvrtc.compile(source, &text, &volta)?,
            _ => nothing(&volta)?,
        }
        let newer_archs: Vec<&str> = archs.into_iter().filter(|&arch| arch != "70").collect();
        if newer_archs.is_empty() { nothing(&newer) } else { self.run_nvcc(source, &newer_archs, &newer) }
    }

    fn run_nvcc(&self, source: &Path, archs: &[&str], to: &Path) -> Result<(), String> {
        let mut command = Command::new(&self.nvcc);
        command.args(["-fatbin", "-std=c++17", "-O3", "--compress-mode=size", "-Ikernels"]);
        command.args(["-Werror", "all-warnings", "-diag-suppress", "177"]);
        for arch in archs {
            let code = match *arch {
                "ptx" => "arch=compute_90,code=compute_90".to_string(),
                arch => format!("arch=compute_{arch},code=sm_{arch}"),
            };
            command.args(["-gencode", &code]);
        }
        let ran = command.arg("-o").arg(to).arg(source).output();
        let ran = ran.map_err(|e| format!("{}: {e}", self.nvcc.display()))?;
        if ran.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&ran.stderr).into_owned() + &String::from_utf8_lossy(&ran.stdout);
        Err(format!("{}:\n{text}", source.display()))
    }
}

fn fatbin(source: &Path) -> String {
    format!("{}.fatbin", stem(source))
}

fn volta_fatbin(source: &Path) -> String {
    format!("{}.sm70.fatbin", stem(source))
}

/// `FATBINS`: name and bytes of each module, and those for sm_70.
fn write_list(out: &Path, sources: &[PathBuf]) {
    let mut text = String::from("/// Name, fatbin, and fatbin for sm_70, of each kernel file.\n");
    text.push_str("pub(crate) static FATBINS: &[(&str, &[u8], &[u8])] = &[\n");
    for source in sources {
        let bytes = |file: String| format!("include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{file}\"))");
        let (newer, volta) = (bytes(fatbin(source)), bytes(volta_fatbin(source)));
        let _ = writeln!(text, "    ({:?}, {newer}, {volta}),", stem(source));
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
    places.extend(wheels().map(|nvidia| nvidia.join("cu13/bin/nvcc")));
    places.into_iter().find(|nvcc| is_13_0(nvcc))
}

fn is_13_0(nvcc: &Path) -> bool {
    let version = Command::new(nvcc).arg("--version").output();
    version.is_ok_and(|v| String::from_utf8_lossy(&v.stdout).contains("release 13.0"))
}

/// Whether nvcc runs at all: it calls the host's C++ compiler for every file, and a C compiler alone is not enough.
fn preprocesses(nvcc: &Path, out: &Path) -> Result<(), String> {
    let empty = out.join("empty.cu");
    fs::write(&empty, "").map_err(|e| format!("{}: {e}", empty.display()))?;
    let ran = Command::new(nvcc).arg("-E").arg(&empty).output().map_err(|e| format!("{}: {e}", nvcc.display()))?;
    let said = String::from_utf8_lossy(&ran.stderr).lines().next().unwrap_or("it says nothing").to_owned();
    if ran.status.success() { Ok(()) } else { Err(said) }
}

/// The folder of NVIDIA's wheels of the Python on `PATH`.
fn wheels() -> Option<PathBuf> {
    let program = "import nvidia; print(list(nvidia.__path__)[0])";
    let asked = Command::new("python3").args(["-c", program]).output().ok()?;
    let folder = String::from_utf8(asked.stdout).ok()?;
    (!folder.trim().is_empty()).then(|| PathBuf::from(folder.trim()))
}

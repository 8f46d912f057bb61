//! sm_70: nvcc 13 no longer compiles for Volta, but NVRTC 12.9 does, without a GPU. It is looked for at `NVRTC`,
//! in `LD_LIBRARY_PATH`, and in a Python's `nvidia/cuda_nvrtc` wheel (nvidia-cuda-nvrtc-cu12==12.9.86); the toolkit's
//! `fatbinary` then compresses what it makes.
use libloading::Library;
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, ptr};

const NAME: &str = "libnvrtc.so.12";
/// Two names that host headers define, which NVRTC does not read.
const OPTIONS: [&str; 7] = [
    "--gpu-architecture=sm_70",
    "--std=c++17",
    "--include-path=kernels",
    // Lambdas that take `auto` are functions of the host otherwise.
    "--device-as-default-execution-space",
    "--disable-warnings",
    "-DINFINITY=__builtin_bit_cast(float, 0x7f800000)",
    "-D__builtin_huge_valf()=__builtin_bit_cast(float, 0x7f800000)",
];

type Program = *mut c_void;
type Create =
    unsafe extern "C" fn(*mut Program, *const c_char, *const c_char, c_int, *const c_void, *const c_void) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Bytes = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;

/// NVRTC 12, and the programs of nvcc's toolkit.
pub struct Nvrtc {
    library: Library,
    fatbinary: PathBuf,
}

impl Nvrtc {
    /// The first library found that says it is 12.x; 13 has no sm_70.
    pub fn find(nvcc: &Path) -> Option<Nvrtc> {
        let mut places: Vec<PathBuf> = env::var_os("NVRTC").map(PathBuf::from).into_iter().collect();
        let folders = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        places.extend(env::split_paths(&folders).map(|p| p.join(NAME)));
        // nvcc of a wheel is `nvidia/cu13/bin/nvcc`, and this wheel its neighbour.
        let wheels = nvcc.ancestors().nth(3).into_iter().map(Path::to_path_buf).chain(crate::wheels());
        places.extend(wheels.map(|nvidia| nvidia.join("cuda_nvrtc/lib").join(NAME)));
        let library = places.iter().filter(|p| p.is_file()).find_map(|p| open(p))?;
        Some(Nvrtc { library, fatbinary: nvcc.with_file_name("fatbinary") })
    }

    /// Compiles a kernel file for sm_70 into the fatbin `to`.
    pub fn compile(&self, source: &Path, text: &str, to: &Path) -> Result<(), String> {
        let told = |e: &dyn std::fmt::Display| format!("{} for sm_70: {e}", source.display());
        let cubin = self.cubin(source, text).map_err(|e| told(&e))?;
        let plain = to.with_extension("cubin");
        fs::write(&plain, cubin).map_err(|e| told(&e))?;
        let image = format!("--image3=kind=elf,sm=70,file={}", plain.display());
        let mut command = Command::new(&self.fatbinary);
        command.args(["--64", "--compress-all", "--compress-mode=size"]).arg(image);
        let ran = command.arg(format!("--create={}", to.display())).output().map_err(|e| told(&e))?;
        if ran.status.success() { Ok(()) } else { Err(told(&String::from_utf8_lossy(&ran.stderr))) }
    }

    fn cubin(&self, source: &Path, text: &str) -> Result<Vec<u8>, String> {
        let text = CString::new(text).map_err(|e| e.to_string())?;
        let name = CString::new(source.display().to_string()).map_err(|e| e.to_string())?;
        let options = OPTIONS.map(|o| CString::new(o).expect("options hold no zero"));
        let pointers = options.each_ref().map(|o| o.as_ptr());
        let mut program = ptr::null_mut();
        // SAFETY: NVRTC's functions of these names have these types since version 7; strings end with a zero and live
        // through the calls. The program is left to the end of the process.
        unsafe {
            let create = self.function::<Create>(b"nvrtcCreateProgram")?;
            let compile = self.function::<Compile>(b"nvrtcCompileProgram")?;
            if create(&mut program, text.as_ptr(), name.as_ptr(), 0, ptr::null(), ptr::null()) != 0 {
                return Err("nvrtcCreateProgram failed".into());
            }
            if compile(program, pointers.len() as c_int, pointers.as_ptr()) != 0 {
                let log = self.output(program, b"nvrtcGetProgramLogSize", b"nvrtcGetProgramLog")?;
                return Err(String::from_utf8_lossy(&log).into_owned());
            }
        }
        self.output(program, b"nvrtcGetCUBINSize", b"nvrtcGetCUBIN")
    }

    /// What a pair of functions says and writes: a number of bytes, and the bytes.
    fn output(&self, program: Program, size: &[u8], bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut length = 0;
        // SAFETY: as in `cubin`; the second function writes as many bytes as the first said.
        unsafe {
            if self.function::<Size>(size)?(program, &mut length) != 0 {
                return Err("NVRTC does not say a size".into());
            }
            let mut output = vec![0u8; length];
            match self.function::<Bytes>(bytes)?(program, output.as_mut_ptr().cast()) {
                0 => Ok(output),
                _ => Err("NVRTC does not give what it made".into()),
            }
        }
    }

    /// # Safety
    /// `F` must be the function's type.
    unsafe fn function<F: Copy>(&self, name: &[u8]) -> Result<F, String> {
        // SAFETY: the caller states the type; the library lives as long as `self`.
        unsafe { self.library.get::<F>(name) }.map(|f| *f).map_err(|e| e.to_string())
    }
}

fn open(path: &Path) -> Option<Library> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: NVRTC's initializers do nothing but set up the library; the function has had this type since version 7.
    unsafe {
        let library = Library::new(path).ok()?;
        let version = *library.get::<Version>(b"nvrtcVersion").ok()?;
        (version(&mut major, &mut minor) == 0 && major == 12).then_some(library)
    }
}

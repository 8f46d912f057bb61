//! The embedded fatbins: loaded through the driver when a kernel of theirs is first asked for.
use crate::driver::{Arch, Context, check};
use cudarc::driver::sys;
use planish_tensor::{Error, Result};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// True if this build has no kernels.
pub(crate) fn is_empty() -> bool {
    FATBINS.is_empty()
}

/// A kernel that can be launched.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    pub(crate) function: sys::CUfunction,
}

// SAFETY: a handle to code, valid as long as the modules are; launches lock inside the driver.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

/// Loaded modules and the kernels found in them.
pub(crate) struct Modules {
    context: Arc<Context>,
    /// The device's architecture.
    arch: Arch,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, Module>,
}

struct Module {
    handle: sys::CUmodule,
    kernels: HashMap<String, Kernel>,
}

// SAFETY: a handle, unloaded once, in `drop`.
unsafe impl Send for Module {}

impl Modules {
    pub(crate) fn new(context: &Arc<Context>, arch: Arch) -> Modules {
        Modules { context: context.clone(), arch, loaded: Mutex::default() }
    }

    /// The kernel `name` of `kernels/<file>.cu`, with room for `shared` bytes of dynamic shared memory.
    pub(crate) fn kernel(&self, file: &'static str, name: &str, shared: u32) -> Result<Kernel> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = loaded.modules.get(file).and_then(|m| m.kernels.get(name)) {
            return Ok(*kernel);
        }
        self.context.enter()?;
        if !loaded.modules.contains_key(file) {
            loaded.modules.insert(file, Module { handle: load(file, self.arch)?, kernels: HashMap::new() });
        }
        let module = loaded.modules.get_mut(file).ok_or_else(|| Error::Device(format!("kernels {file}")))?;
        let kernel = find(module.handle, file, name, shared)?;
        module.kernels.insert(name.to_owned(), kernel);
        Ok(kernel)
    }
}

/// Fails if this build has no kernels for a device, as without NVRTC 12.9 it has none for Volta.
pub(crate) fn has_kernels(arch: Arch) -> Result<()> {
    image("gemm_w8a8", arch).map(|_| ())
}

/// The fatbin of a kernel file for a device. Volta's are apart: another compiler makes them.
fn image(file: &str, arch: Arch) -> Result<&'static [u8]> {
    let found = FATBINS.iter().find(|(name, ..)| *name == file);
    let image = found.map(|&(_, newer, volta)| if arch < 75 { volta } else { newer }).unwrap_or_default();
    match image {
        [] if arch < 75 => Err(Error::unsupported(format!(
            "this build has no kernels {file} for sm_{arch} (it was compiled without NVRTC 12.9, see docs/gpu.md)"
        ))),
        [] => Err(Error::unsupported(format!("this build has no kernels {file}"))),
        image => Ok(image),
    }
}

fn load(file: &str, arch: Arch) -> Result<sys::CUmodule> {
    let image = image(file, arch)?;
    let mut module = std::ptr::null_mut();
    // SAFETY: the image is a whole fatbin, which states its own length.
    let result = unsafe { sys::cuModuleLoadData(&mut module, image.as_ptr().cast::<c_void>()) };
    check(result, &format!("load the kernels {file}"))?;
    Ok(module)
}

fn find(module: sys::CUmodule, file: &str, name: &str, shared: u32) -> Result<Kernel> {
    use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as SHARED;
    let text = CString::new(name).map_err(|_| Error::Device(format!("kernel name {name:?}")))?;
    let mut function = std::ptr::null_mut();
    // SAFETY: the name ends with a zero; the handle lives as long as the module.
    let result = unsafe { sys::cuModuleGetFunction(&mut function, module, text.as_ptr()) };
    check(result, &format!("find the kernel {name} of {file}"))?;
    // Beyond 48 KiB the limit must be raised; asking for it always keeps one path.
    if shared > 0 {
        // SAFETY: sets a number of this function.
        let result = unsafe { sys::cuFuncSetAttribute(function, SHARED, shared as i32) };
        check(result, &format!("give the kernel {name} {shared} bytes of shared memory"))?;
    }
    Ok(Kernel { function })
}

impl Drop for Modules {
    fn drop(&mut self) {
        let _ = self.context.sync();
        let loaded = self.loaded.get_mut().unwrap_or_else(PoisonError::into_inner);
        for module in loaded.modules.values() {
            // SAFETY: loaded once, and nothing runs any more.
            let _ = unsafe { sys::cuModuleUnload(module.handle) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// One part of a fatbin.
    #[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Code {
        Ptx(u32),
        Machine(u32),
    }

    /// The parts of a fatbin: after a header of its own length, each with a header that states its kind, the header's
    /// and the code's length, and the architecture.
    fn parts(image: &[u8]) -> BTreeSet<Code> {
        let word = |at: usize, width: usize| {
            image[at..at + width].iter().rev().fold(0usize, |number, &byte| number << 8 | byte as usize)
        };
        assert_eq!(word(0, 4), 0xBA55_ED50, "a fatbin begins with its mark");
        let (mut at, end) = (word(6, 2), word(6, 2) + word(8, 8));
        assert_eq!(end, image.len(), "a fatbin states its length");
        let mut found = BTreeSet::new();
        while at < end {
            let arch = word(at + 28, 4) as u32;
            found.insert(match word(at, 2) {
                1 => Code::Ptx(arch),
                2 => Code::Machine(arch),
                other => panic!("a part of kind {other}"),
            });
            at += word(at + 4, 4) + word(at + 8, 8);
        }
        found
    }

    /// The architectures that a kernel file is for, by its first line.
    fn asked(file: &str) -> (BTreeSet<Code>, bool) {
        let path = format!("{}/kernels/{file}.cu", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        let archs = text.lines().next().and_then(|line| line.strip_prefix("// archs:"));
        let archs: Vec<&str> = archs.unwrap_or("70 75 80 86 89 90a ptx").split_whitespace().collect();
        let code = |arch: &&str| match *arch {
            "ptx" => Code::Ptx(90),
            arch => Code::Machine(arch.trim_end_matches('a').parse().unwrap()),
        };
        (archs.iter().filter(|arch| **arch != "70").map(code).collect(), archs.contains(&"70"))
    }

    #[test]
    fn fatbins_hold_their_architectures() {
        if is_empty() || option_env!("PLANISH_CUDA_ARCHS").is_some() {
            return println!("skipped: no kernels in this build, or of chosen architectures");
        }
        let with_volta = FATBINS.iter().any(|(_, _, volta)| !volta.is_empty());
        for (file, newer, volta) in FATBINS {
            let (expected, for_volta) = asked(file);
            assert_eq!(parts(newer), expected, "{file}");
            // Every file is for Hopper, where all are tested.
            assert!(expected.contains(&Code::Machine(90)), "{file}");
            assert_eq!(!volta.is_empty(), for_volta && with_volta, "{file} for sm_70");
            assert!(volta.is_empty() || parts(volta) == BTreeSet::from([Code::Machine(70)]), "{file}");
        }
        if !with_volta {
            println!("skipped: kernels for sm_70 (no NVRTC 12.9 in this build)");
        }
    }
}

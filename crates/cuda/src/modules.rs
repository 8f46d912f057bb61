//! The embedded fatbins: loaded through the driver when a kernel of theirs is first asked for.
use crate::driver::{Context, check};
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
    pub(crate) fn new(context: &Arc<Context>) -> Modules {
        Modules { context: context.clone(), loaded: Mutex::default() }
    }

    /// The kernel `name` of `kernels/<file>.cu`, with room for `shared` bytes of dynamic shared memory.
    pub(crate) fn kernel(&self, file: &'static str, name: &str, shared: u32) -> Result<Kernel> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = loaded.modules.get(file).and_then(|m| m.kernels.get(name)) {
            return Ok(*kernel);
        }
        self.context.enter()?;
        if !loaded.modules.contains_key(file) {
            loaded.modules.insert(file, Module { handle: load(file)?, kernels: HashMap::new() });
        }
        let module = loaded.modules.get_mut(file).ok_or_else(|| Error::Device(format!("kernels {file}")))?;
        let kernel = find(module.handle, file, name, shared)?;
        module.kernels.insert(name.to_owned(), kernel);
        Ok(kernel)
    }
}

fn load(file: &str) -> Result<sys::CUmodule> {
    let (_, image) = FATBINS
        .iter()
        .find(|(name, image)| *name == file && !image.is_empty())
        .ok_or_else(|| Error::unsupported(format!("this build has no kernels {file}")))?;
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

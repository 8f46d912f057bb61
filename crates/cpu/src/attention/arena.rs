//! Memory that calls lease and give back, so that a step of many small calls asks the system for none.
#[cfg(target_arch = "x86_64")]
use super::pairs::Table;
use crate::buffer::Aligned;
#[cfg(target_arch = "x86_64")]
use planish_tensor::Q8;
use std::sync::Mutex;

/// Memory not in use, and what is made once.
pub(super) struct Arena {
    free: Mutex<Vec<Aligned>>,
    /// What codes stand for.
    #[cfg(target_arch = "x86_64")]
    pub tables: [Table; 2],
}

impl Default for Arena {
    fn default() -> Self {
        Arena {
            free: Mutex::default(),
            #[cfg(target_arch = "x86_64")]
            tables: [Q8::Int8, Q8::E4M3].map(Table::new),
        }
    }
}

impl Arena {
    /// At least `floats` f32, holding anything.
    pub fn lease(&self, floats: usize) -> Lease<'_> {
        let old = self.free.lock().unwrap_or_else(|e| e.into_inner()).pop();
        let memory = old.filter(|m| m.bytes().len() >= floats * 4).unwrap_or_else(|| Aligned::zeroed(floats * 4));
        Lease { memory: Some(memory), arena: self }
    }
}

/// Memory in use; dropping gives it back.
pub(super) struct Lease<'a> {
    memory: Option<Aligned>,
    arena: &'a Arena,
}

impl Lease<'_> {
    /// Element `i`.
    pub fn at(&mut self, i: usize) -> *mut f32 {
        let memory = self.memory.as_mut().expect("a lease holds memory until it is dropped");
        memory.bytes_mut().as_mut_ptr().cast::<f32>().wrapping_add(i)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.arena.free.lock().unwrap_or_else(|e| e.into_inner()).push(memory);
        }
    }
}

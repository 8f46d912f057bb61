//! What `--device` says: a name, taken apart.
use crate::Error;
use std::str::FromStr;

/// GPUs that one name may list at most.
const MOST_GPUS: usize = 64;

/// A device, or several, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first GPU, or the CPU if there is none that can be used.
    Auto,
    /// The CPU.
    Cpu,
    /// Nothing is computed.
    Null,
    /// GPUs: `cuda`, `cuda:1`, `cuda:0,1`, `cuda:0-3`, `cuda:1@80`.
    Cuda {
        /// Their numbers, none twice.
        ordinals: Vec<usize>,
        /// The architecture whose kernels run.
        kernels_of: Option<u32>,
    },
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(name: &str) -> Result<Place, Error> {
        match name {
            "auto" => Ok(Place::Auto),
            "cpu" => Ok(Place::Cpu),
            "null" => Ok(Place::Null),
            other => cuda(other).ok_or_else(|| Error::Unknown(other.into())),
        }
    }
}

impl Place {
    /// Whether it means the device that [`crate::devices`] lists under this name; `auto` means all.
    pub fn means(&self, name: &str) -> bool {
        match self {
            Place::Auto => true,
            Place::Cpu => name == "cpu",
            Place::Null => false,
            Place::Cuda { ordinals, .. } => ordinals.iter().any(|i| name == format!("cuda:{i}")),
        }
    }
}

fn cuda(name: &str) -> Option<Place> {
    let rest = name.strip_prefix("cuda")?;
    let (list, kernels) = rest.split_once('@').map_or((rest, None), |(list, arch)| (list, Some(arch)));
    let kernels_of = kernels.map(str::parse).transpose().ok()?;
    let mut ordinals = Vec::new();
    for item in list.strip_prefix(':').map_or("0", |list| list).split(',') {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        let further = last.checked_sub(first).filter(|more| *more < MOST_GPUS)?;
        ordinals.extend((0..=further).map(|more| first + more));
    }
    let mut once = ordinals.clone();
    once.sort_unstable();
    once.dedup();
    let whole = list.is_empty() || list.starts_with(':');
    (whole && once.len() == ordinals.len() && once.len() <= MOST_GPUS).then_some(Place::Cuda { ordinals, kernels_of })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus(ordinals: &[usize], kernels_of: Option<u32>) -> Result<Place, Error> {
        Ok(Place::Cuda { ordinals: ordinals.to_vec(), kernels_of })
    }

    #[test]
    fn names_of_gpus() {
        for (name, ordinals, kernels_of) in [
            ("cuda", &[0][..], None),
            ("cuda:3", &[3], None),
            ("cuda:1@80", &[1], Some(80)),
            ("cuda@80", &[0], Some(80)),
            ("cuda:0,1", &[0, 1], None),
            ("cuda:0-3", &[0, 1, 2, 3], None),
            ("cuda:4,0-1@75", &[4, 0, 1], Some(75)),
            ("cuda:2-2", &[2], None),
        ] {
            assert_eq!(name.parse(), gpus(ordinals, kernels_of), "{name}");
        }
    }

    #[test]
    fn what_is_no_name_is_answered_with_those_that_are() {
        let bad =
            ["cuda:", "cuda1", "cuda:x", "cuda:0@", "cud", "cuda:1,", "cuda:,1", "cuda:1,1", "cuda:3-1", "cuda:0-99"];
        for bad in bad.into_iter().chain(["", "gpu", "CPU", "cuda:0-1,1", "cuda:-1", "cuda,1"]) {
            let error = bad.parse::<Place>().unwrap_err();
            assert_eq!(error.to_string(), format!("--device: expected auto, cpu, cuda, cuda:N or null, found {bad}"));
        }
    }

    #[test]
    fn a_name_means_one_device_or_several_or_all() {
        let meant = |name: &str| {
            let place: Place = name.parse().unwrap();
            ["cpu", "cuda:0", "cuda:1", "cuda:10"].map(|listed| place.means(listed))
        };
        assert_eq!((meant("auto"), meant("cpu")), ([true; 4], [true, false, false, false]));
        assert_eq!((meant("cuda"), meant("cuda:1@80")), ([false, true, false, false], [false, false, true, false]));
        assert_eq!((meant("cuda:0,10"), meant("null")), ([false, true, false, true], [false; 4]));
    }
}

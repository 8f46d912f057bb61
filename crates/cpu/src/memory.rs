//! Memory that this process may use: what the system counts, and what the limits of its control groups leave of it.
use planish_tensor::Memory;

/// Bytes of memory (0 where the system does not say). In a container the limit counts if it is below the machine's memory.
pub fn host_memory() -> Memory {
    memory(&|path| std::fs::read_to_string(path).ok())
}

/// The files of one version of control groups: a limit, what is in use, and the part of that which the system takes back
/// when memory is wanted, files that are cached and were not used lately.
struct Files {
    /// Where the hierarchy may be mounted.
    roots: &'static [&'static str],
    limit: &'static str,
    used: &'static str,
    inactive: &'static str,
}

const VERSION_2: Files = Files {
    roots: &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"],
    limit: "memory.max",
    used: "memory.current",
    inactive: "inactive_file",
};

const VERSION_1: Files = Files {
    roots: &["/sys/fs/cgroup/memory"],
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    inactive: "total_inactive_file",
};

/// Version 1 writes the largest multiple of a page where there is no limit.
const NO_LIMIT: u64 = 1 << 60;

/// What the files say; `read` gives a file's text.
fn memory(read: &dyn Fn(&str) -> Option<String>) -> Memory {
    let text = read("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| number(&text, name).map(|kib| kib.saturating_mul(1024));
    let (mut free, mut total) = (field("MemAvailable:"), field("MemTotal:"));
    for (limit, left) in limits(read) {
        total = Some(total.map_or(limit, |total| total.min(limit)));
        free = Some(free.map_or(left, |free| free.min(left)));
    }
    Memory { free: free.unwrap_or(0), total: total.unwrap_or(0) }
}

/// The limit of each group that this process is in and has one, and what is left of it.
fn limits(read: &dyn Fn(&str) -> Option<String>) -> Vec<(u64, u64)> {
    let (groups, mut found) = (read("/proc/self/cgroup").unwrap_or_default(), Vec::new());
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let files = match controllers {
            "" => VERSION_2,
            _ if controllers.split(',').any(|c| c == "memory") => VERSION_1,
            _ => continue,
        };
        for dir in files.roots.iter().flat_map(|root| upward(path).map(move |path| format!("{root}{path}"))) {
            found.extend(limit(read, &files, &dir));
        }
    }
    found
}

/// A group's path and those of the groups around it, the root (an empty path) last. A container may see its own group as the
/// root under any path, or a path that leads out of what it sees: directories that are not there are passed over.
fn upward(path: &str) -> impl Iterator<Item = &str> {
    let path = if path.split('/').any(|part| part == "..") { "" } else { path.trim_end_matches('/') };
    std::iter::successors(Some(path), |path| path.rfind('/').map(|at| &path[..at]))
}

fn limit(read: &dyn Fn(&str) -> Option<String>, files: &Files, dir: &str) -> Option<(u64, u64)> {
    let of = |name: &str| read(&format!("{dir}/{name}"));
    let limit = of(files.limit)?.trim().parse::<u64>().ok().filter(|&limit| limit < NO_LIMIT)?;
    let used = of(files.used).and_then(|used| used.trim().parse().ok()).unwrap_or(0u64);
    let inactive = number(&of("memory.stat").unwrap_or_default(), files.inactive).unwrap_or(0);
    Some((limit, limit.saturating_sub(used.saturating_sub(inactive))))
}

/// The number after this word at the beginning of a line.
fn number(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_whitespace);
    lines.find_map(|mut words| (words.next()? == name).then(|| words.next())?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: (&str, &str) =
        ("/proc/meminfo", "MemTotal:       1000 kB\nMemFree: 7 kB\nMemAvailable:    900 kB\n");
    const GIVEN: Memory = Memory { free: 900 << 10, total: 1000 << 10 };

    fn found(files: &[(&str, &str)]) -> Memory {
        memory(&|path| files.iter().find(|(name, _)| *name == path).map(|(_, text)| text.to_string()))
    }

    #[test]
    fn without_limits_the_machine_counts() {
        assert_eq!(found(&[MEMINFO]), GIVEN);
        let unlimited = [MEMINFO, ("/proc/self/cgroup", "0::/\n"), ("/sys/fs/cgroup/memory.max", "max\n")];
        assert_eq!(found(&unlimited), GIVEN);
        let large = [
            MEMINFO,
            ("/proc/self/cgroup", "4:memory:/\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(found(&large), GIVEN);
        assert_eq!(found(&large[1..]), Memory { free: 0, total: 0 });
        assert_eq!(found(&[]), Memory { free: 0, total: 0 });
    }

    #[test]
    fn the_narrowest_group_of_version_2_counts() {
        let mut files = vec![
            MEMINFO,
            ("/proc/self/cgroup", "0::/pod/inner\n"),
            ("/sys/fs/cgroup/pod/inner/memory.max", "max\n"),
            ("/sys/fs/cgroup/pod/memory.max", "600000\n"),
            ("/sys/fs/cgroup/pod/memory.current", "500000\n"),
            ("/sys/fs/cgroup/pod/memory.stat", "anon 1\nfile 400000\ninactive_file 300000\nactive_file 100000\n"),
        ];
        assert_eq!(found(&files), Memory { free: 400_000, total: 600_000 });
        files.push(("/sys/fs/cgroup/memory.max", "450000\n"));
        files.push(("/sys/fs/cgroup/memory.current", "440000\n"));
        assert_eq!(found(&files), Memory { free: 10_000, total: 450_000 });
        // More in use than allowed, as after the limit was lowered.
        files[4].1 = "900000\n";
        assert_eq!(found(&files), Memory { free: 0, total: 450_000 });
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_root() {
        for groups in ["0::/\n", "0::/../../elsewhere\n", "0::/kubepods/pod7/abc\n"] {
            let files = [
                MEMINFO,
                ("/proc/self/cgroup", groups),
                ("/sys/fs/cgroup/memory.max", "600000\n"),
                ("/sys/fs/cgroup/memory.current", "200000\n"),
            ];
            assert_eq!(found(&files), Memory { free: 400_000, total: 600_000 }, "{groups}");
        }
    }

    #[test]
    fn version_1_has_names_of_its_own() {
        let files = [
            MEMINFO,
            ("/proc/self/cgroup", "5:cpuacct:/a\n4:hugetlb,memory:/docker/abc\n1:name=systemd:/a\n0::/\n"),
            ("/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "700000\n"),
            ("/sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", "500000\n"),
            ("/sys/fs/cgroup/memory/docker/abc/memory.stat", "inactive_file 1\ntotal_inactive_file 50000\n"),
        ];
        assert_eq!(found(&files), Memory { free: 250_000, total: 700_000 });
        assert_eq!(found(&files[1..]), Memory { free: 250_000, total: 700_000 });
    }

    #[test]
    fn what_is_free_on_this_machine_is_part_of_the_whole() {
        let Memory { free, total } = host_memory();
        assert!(free <= total);
    }
}

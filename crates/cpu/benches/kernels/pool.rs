//! What an operation costs that does nothing.
use crate::{Setting, best, line};

/// Times empty operations.
pub fn latency(setting: &Setting) {
    line(&["threads", "tasks", "us"].map(String::from));
    let count = setting.threads.count();
    for tasks in [1, count, 4 * count] {
        let seconds = best(|| {
            for _ in 0..100 {
                setting.threads.run(tasks, |i| {
                    std::hint::black_box(i);
                });
            }
        });
        line(&[count.to_string(), tasks.to_string(), format!("{:.3}", seconds * 1e4)]);
    }
}

//! How much memory some work holds at most, as the allocator of Rust counts it.

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Does the work, and fails if it ever held more than `bound` bytes.
pub fn within<T>(bound: usize, work: impl FnOnce() -> T) -> T {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let done = work();
    let held = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(held <= bound, "held {held} bytes, {bound} are allowed");
    done
}

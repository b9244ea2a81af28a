//! How much room is enough, and when to look again. Pure.

use std::time::Duration;

use banger_core::ByteSize;

/// Looks come at least this often while disks can grow.
pub(crate) const FAR: Duration = Duration::from_secs(5);
/// And at most this often.
const NEAR: Duration = Duration::from_millis(200);
/// No disk fills faster, in bytes per second.
const FASTEST: u64 = 2 << 30;

/// What free space means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// VMs run.
    Enough,
    /// They are paused; one that is being stopped may use what is left to end cleanly.
    Low,
    /// They are all paused.
    Out,
}

/// Where one begins and the other ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Levels {
    /// Below it VMs are paused; 0: never.
    reserve: u64,
}

impl Levels {
    pub(crate) const fn of(reserve: ByteSize) -> Self {
        Self { reserve: reserve.0 }
    }

    /// Only that much above the reserve do VMs go on, or they would stop and go.
    pub(crate) const fn resume_at(self) -> ByteSize {
        ByteSize(self.reserve.saturating_add(self.reserve / 4))
    }

    /// What free space means; `was_low`: VMs are paused now.
    pub(crate) const fn judge(self, free: ByteSize, was_low: bool) -> Room {
        if free.0 < self.reserve / 4 {
            Room::Out
        } else if free.0 < self.reserve || (was_low && free.0 < self.resume_at().0) {
            Room::Low
        } else {
            Room::Enough
        }
    }

    /// When to look again: before the fastest disk has used what is above the reserve.
    pub(crate) fn next_look(self, free: ByteSize) -> Duration {
        if self.reserve == 0 {
            return FAR;
        }
        let above = free.0.saturating_sub(self.reserve);
        Duration::from_millis(above.saturating_mul(1000) / FASTEST).clamp(NEAR, FAR)
    }
}

/// What is done about one VM that lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is paused.
    Pause,
    /// It goes on.
    Resume,
    /// It stays as it is.
    Keep,
}

/// Decides about one VM. `is_spared`: it is being stopped; `is_over`: there was no room, or it is not
/// known whether there was.
pub(crate) const fn decide(room: Room, is_paused: bool, is_spared: bool, is_over: bool) -> Verdict {
    match room {
        Room::Low if is_spared => Verdict::Keep,
        Room::Low | Room::Out if is_paused => Verdict::Keep,
        Room::Low | Room::Out => Verdict::Pause,
        // Also one that is not paused: its VMM may have stopped it when the disk was full.
        Room::Enough if is_over => Verdict::Resume,
        // Whoever stopped it meant it.
        Room::Enough => Verdict::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const LEVELS: Levels = Levels::of(ByteSize(512 * MIB));

    #[test]
    fn room_has_a_hysteresis_and_a_floor() {
        for (free, was_low, room) in [
            (4096, false, Room::Enough),
            (4096, true, Room::Enough),
            (640, true, Room::Enough),
            (639, true, Room::Low),
            (639, false, Room::Enough),
            (512, false, Room::Enough),
            (511, false, Room::Low),
            (128, true, Room::Low),
            (127, false, Room::Out),
            (0, true, Room::Out),
        ] {
            let given = LEVELS.judge(ByteSize(free * MIB), was_low);
            assert_eq!(given, room, "{free} MiB, low before: {was_low}");
        }
    }

    #[test]
    fn without_a_reserve_there_is_always_room() {
        let off = Levels::of(ByteSize(0));
        assert_eq!(off.judge(ByteSize(0), false), Room::Enough);
        assert_eq!(off.next_look(ByteSize(0)), FAR);
    }

    #[test]
    fn no_disk_fills_the_reserve_between_two_looks() {
        for free in [
            0,
            100,
            511,
            512,
            600,
            1024,
            3000,
            9000,
            100_000,
            u64::MAX / MIB,
        ] {
            let free = ByteSize(free * MIB);
            let pause = LEVELS.next_look(free);
            assert!((NEAR..=FAR).contains(&pause), "{free}");
            let written = u128::from(FASTEST) * pause.as_millis() / 1000;
            let left = u128::from(free.0).saturating_sub(written);
            let safe = left > 0 || free.0 < 512 * MIB;
            assert!(safe, "{free} is full before the next look");
        }
        assert_eq!(LEVELS.next_look(ByteSize::gib(100)), FAR);
        assert_eq!(LEVELS.next_look(ByteSize(512 * MIB)), NEAR);
    }

    #[test]
    fn each_vm_has_its_verdict() {
        use Verdict::{Keep, Pause, Resume};
        for (room, is_paused, is_spared, is_over, verdict) in [
            (Room::Low, false, false, false, Pause),
            (Room::Low, true, false, true, Keep),
            (Room::Low, false, true, true, Keep),
            (Room::Out, false, true, true, Pause),
            (Room::Out, true, true, true, Keep),
            (Room::Enough, true, false, true, Resume),
            (Room::Enough, false, false, true, Resume),
            (Room::Enough, true, false, false, Keep),
            (Room::Enough, false, false, false, Keep),
        ] {
            assert_eq!(
                decide(room, is_paused, is_spared, is_over),
                verdict,
                "{room:?} paused {is_paused} spared {is_spared} over {is_over}"
            );
        }
    }
}

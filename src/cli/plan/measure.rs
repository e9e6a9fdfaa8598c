//! What the parts of an update take on this machine, while other ranks of the run that share it do the same.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use wgpt::backend::{Device, cpu};
use wgpt::dist::{HostCosts, Measured};
use wgpt::engine::Engine;
use wgpt::kernel::Step;
use wgpt::model::Program;
use wgpt::plan::Phase;
use wgpt::{Error, Result};

/// Updates that are measured, after one that is not.
const ROUNDS: usize = 5;

/// How long a thread sleeps, to see how much later it wakes up: about as long as a small message takes.
const NAP: Duration = Duration::from_millis(1);

/// The ranks of a run that are on this machine.
#[derive(Clone, Copy, Debug)]
pub struct Here {
    /// How many there are.
    pub ranks: usize,
    /// The threads of each.
    pub threads: usize,
}

/// What the parts of an update take, in seconds: forward and backward pass, update, forward pass and head of an evaluation; and
/// how much too late a sleeping thread wakes up during the passes.
type Parts = [f64; 4];

impl Here {
    /// Measures the parts of an update on as many copies of the program as there are ranks here, all at once, so that they
    /// compete for cores, caches and memory as those of the run do. They begin each part together, and the slowest one
    /// counts, because the ranks of a run wait for each other. The medians of some updates are returned.
    ///
    /// # Errors
    ///
    /// If this machine has no room for them, or the device is lost.
    pub fn measure(self, program: &Program, device: &Device) -> Result<Measured> {
        if matches!(device, Device::Cpu) {
            cpu::check_memory(self.ranks as u64 * program.plan.total_bytes())?;
        }
        let meeting = Barrier::new(self.ranks);
        let pool = || {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads);
            let pool = pool.stack_size(8 << 20).build();
            pool.map_err(|error| Error::input(format!("starting threads: {error}")))
        };
        let pools = (0..self.ranks).map(|_| pool()).collect::<Result<Vec<_>>>()?;
        let rank = || Copy::new(program, device).measure(&meeting);
        let all = thread::scope(|scope| {
            let started = pools.iter().map(|pool| scope.spawn(|| pool.install(rank)));
            let started: Vec<_> = started.collect();
            let ended = started.into_iter().map(|rank| rank.join().expect("a rank that measures"));
            ended.collect::<Result<Vec<_>>>()
        })?;
        Ok(self.slowest(program, &all, device))
    }

    /// Of each part of each update the slowest rank, and of the updates the median.
    fn slowest(
        self,
        program: &Program,
        all: &[Vec<(Parts, HostCosts)>],
        device: &Device,
    ) -> Measured {
        let of = |part: &dyn Fn(&(Parts, HostCosts)) -> f64| {
            // The first update is cold.
            let slowest =
                |round: usize| all.iter().map(|rank| part(&rank[round])).fold(0.0, f64::max);
            median((1..=ROUNDS).map(slowest).collect())
        };
        let [passes_s, update_s, evaluation_s, wake_s] =
            [0, 1, 2, 3].map(|i| of(&|(parts, _)| parts[i]));
        let forward_s = evaluation_s * (1.0 - share_of_head(program));
        let host = HostCosts {
            read_s: of(&|(_, host)| host.read_s),
            write_s: of(&|(_, host)| host.write_s),
            copy_s: of(&|(_, host)| host.copy_s),
            add_s: of(&|(_, host)| host.add_s),
        };
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let is_on_cpu = matches!(device, Device::Cpu);
        // Where every core computes, the thread that exchanges takes its time from one of the rank's threads.
        let is_full = is_on_cpu && self.ranks * self.threads >= cores;
        Measured {
            forward_s,
            backward_s: (passes_s - forward_s).max(0.0),
            update_s,
            host,
            wake_s,
            lost: if is_full { 1.0 / self.threads as f64 } else { 0.0 },
            leaves_late: !is_on_cpu,
        }
    }
}

/// One of the copies. After an error it does nothing more, but comes to the meetings, so that the others end, too.
struct Copy {
    engine: Result<Engine>,
    ids: Vec<u32>,
}

impl Copy {
    fn new(program: &Program, device: &Device) -> Copy {
        let (rows, vocab) = (program.uses.batch * program.uses.seq, program.config.vocab_size);
        let id = |i: u32| i.wrapping_mul(2_654_435_761) % vocab as u32;
        let engine = Engine::with(program.clone(), device).map(|mut engine| {
            engine.initialize(0);
            engine
        });
        Copy { engine, ids: (0..=rows as u32).map(id).collect() }
    }

    fn measure(mut self, meeting: &Barrier) -> Result<Vec<(Parts, HostCosts)>> {
        let mut rounds = vec![];
        let step = Step { learning_rate: 1e-9, ..Step::default() };
        for _ in 0..=ROUNDS {
            let mut wake_s = 0.0;
            let passes_s = self.time(meeting, |engine, ids, rows| {
                let (result, late_s) = beside_a_sleeper(|| {
                    engine.train_batch(&ids[..rows], &ids[1..], (0, rows), step);
                    engine.read_loss().map(drop)
                });
                wake_s = late_s;
                result
            });
            let update_s = self.time(meeting, |engine, _, _| {
                engine.run_update_alone(&step);
                engine.read_update().map(drop)
            });
            let evaluation_s = self.time(meeting, |engine, ids, rows| {
                let ticket = engine.request_row_losses(&ids[..rows], &ids[1..]);
                engine.take_row_losses(ticket).map(drop)
            });
            let mut host = HostCosts::default();
            self.time(meeting, |engine, _, _| {
                host = HostCosts::measure(engine)?;
                Ok(())
            });
            rounds.push(([passes_s, update_s, evaluation_s, wake_s], host));
        }
        self.engine.map(|_| rounds)
    }

    /// Does something together with the other copies; returns how long it took here, in seconds.
    fn time(
        &mut self,
        meeting: &Barrier,
        part: impl FnOnce(&mut Engine, &[u32], usize) -> Result<()>,
    ) -> f64 {
        meeting.wait();
        let clock = Instant::now();
        if let Ok(engine) = &mut self.engine
            && let Err(error) = part(engine, &self.ids, self.ids.len() - 1)
        {
            self.engine = Err(error);
        }
        clock.elapsed().as_secs_f64()
    }
}

/// Does something while another thread sleeps again and again. Returns as well how much too late that one wakes up on average,
/// in seconds: where all cores compute, the system lets it wait for one of them.
fn beside_a_sleeper<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            let (clock, mut naps) = (Instant::now(), 0);
            while !is_done.load(Ordering::Relaxed) {
                thread::sleep(NAP);
                naps += 1;
            }
            clock.elapsed().as_secs_f64() / f64::from(naps.max(1)) - NAP.as_secs_f64()
        });
        let result = work();
        is_done.store(true, Ordering::Relaxed);
        (result, sleeper.join().expect("a thread that sleeps").max(0.0))
    })
}

/// The share of an evaluation's operations that its head takes, which the backward pass of training computes.
fn share_of_head(program: &Program) -> f64 {
    let flops = |phase| -> f64 {
        let dispatches = &program.plan.dispatches[program.plan.phase(phase)];
        dispatches.iter().map(|dispatch| (dispatch.kernel.flops)(&dispatch.dims) as f64).sum()
    };
    let (forward, head) = (flops(Phase::Forward), flops(Phase::Evaluate));
    head / (forward + head)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

//! Tensors of which each rank has a part: put together on rank 0 when it saves them, and given out when a run goes on.

use std::ops::Range;

use crate::checkpoint::Fill;
use crate::dist::{Link, World};
use crate::engine::{Engine, Tensor};
use crate::error::Result;
use crate::gpt::tensor_of;
use crate::graph::Param;

/// A range of elements of a tensor, by the tensor's name in a save; `None`: rank 0 has all that it needs.
type Request = Option<(String, usize, usize)>;

/// Lets rank 0 write what all ranks have: `write` gets a function that fills tensors of a file. The other ranks answer its
/// requests meanwhile, and return `None`.
pub(super) fn with_tensors_of_all<T>(
    engine: &mut Engine,
    link: &Link,
    write: impl FnOnce(&mut Fill) -> Result<T>,
) -> Result<Option<T>> {
    let is_scattered = engine.program().split.is_some();
    if link.grid().rank > 0 {
        return if is_scattered { answer_all(engine, link).map(|()| None) } else { Ok(None) };
    }
    let written = write(&mut |name, start, out| {
        let own = tensor_of(engine, name);
        if covers(&parts(engine, own.as_ref(), start, out.len()), out.len()) {
            let (param, tensor) = own.expect("a tensor of which there are parts");
            return engine.read_param(&param, tensor, start, out);
        }
        ask(link, &Some((name.to_owned(), start, out.len())))?;
        answer(engine, link, (own.as_ref(), start), out)
    });
    if is_scattered {
        ask(link, &None)?;
    }
    written.map(Some)
}

/// Whether parts have all of `len` elements.
fn covers(parts: &[Range<usize>], len: usize) -> bool {
    parts.iter().map(Range::len).sum::<usize>() == len
}

/// Which of some elements of a tensor this rank has.
fn parts(
    engine: &Engine,
    tensor: Option<&(Param, Tensor)>,
    start: usize,
    len: usize,
) -> Vec<Range<usize>> {
    tensor.map_or(vec![], |(param, tensor)| engine.parts(param, *tensor, start..start + len))
}

/// Tells all ranks what rank 0 needs.
fn ask(link: &Link, request: &Request) -> Result<()> {
    let mut bytes = serde_json::to_vec(request).expect("a request is JSON");
    link.call(move |world| world.broadcast(&mut bytes))
}

/// Answers rank 0 until it has all that it needs.
fn answer_all(engine: &mut Engine, link: &Link) -> Result<()> {
    loop {
        let bytes = link.call(|world| {
            let mut bytes = vec![];
            world.broadcast(&mut bytes).map(|()| bytes)
        })?;
        let request: Request = serde_json::from_slice(&bytes).expect("a request of rank 0");
        let Some((name, start, len)) = request else { return Ok(()) };
        let own = tensor_of(engine, &name);
        answer(engine, link, (own.as_ref(), start), &mut vec![0.0; len])?;
    }
}

/// Fills `out` on rank 0 with the parts of all ranks: of each element that of the first rank that has it.
fn answer(
    engine: &mut Engine,
    link: &Link,
    (own, start): (Option<&(Param, Tensor)>, usize),
    out: &mut [f32],
) -> Result<()> {
    let parts = parts(engine, own, start, out.len());
    let words: Vec<u64> =
        parts.iter().flat_map(|part| [part.start as u64, part.end as u64]).collect();
    let all = link.call(move |world| world.gather(&words))?;
    if let Some((param, tensor)) = own {
        engine.read_param(param, *tensor, start, out)?;
    }
    let mut taken: Vec<(usize, Range<usize>)> = vec![];
    for (rank, words) in all.iter().enumerate() {
        for [first, end] in words.as_chunks().0 {
            let part = *first as usize - start..*end as usize - start;
            if !taken.iter().any(|(_, other)| other.contains(&part.start)) {
                taken.push((rank, part));
            }
        }
    }
    let of_others = taken.into_iter().filter(|(rank, _)| *rank > 0);
    let sent = send(link, of_others.clone().collect(), out.to_vec())?;
    for (part, numbers) in of_others.map(|(_, part)| part).zip(sent) {
        out[part].copy_from_slice(&numbers);
    }
    Ok(())
}

/// Sends each part from its rank to rank 0, which gets them.
fn send(link: &Link, parts: Vec<(usize, Range<usize>)>, own: Vec<f32>) -> Result<Vec<Vec<f32>>> {
    link.call(move |world: &mut dyn World| {
        let rank = world.rank();
        let mut got: Vec<Vec<f32>> = match rank {
            0 => parts.iter().map(|(_, part)| vec![0.0; part.len()]).collect(),
            _ => vec![],
        };
        let sent: Vec<(usize, &[f32])> = parts
            .iter()
            .filter(|(from, _)| *from == rank)
            .map(|(_, part)| (0, &own[part.clone()]))
            .collect();
        let mut received: Vec<(usize, &mut [f32])> =
            parts.iter().zip(&mut got).map(|((from, _), out)| (*from, &mut out[..])).collect();
        world.exchange(&sent, &mut received)?;
        Ok(got)
    })
}

//! Steps that come before their tokens are known: each is a guess that every sequence of the step before goes on.
use super::*;
use planish_tensor::CHOSEN;

/// Stands for a token that is not known yet.
const GUESS: u32 = 0;
/// In the place of a sequence that is no longer here.
const NOBODY: u64 = u64::MAX;

impl Runner {
    /// As [`Runner::begin`], with a guess in the place of each token that the step will lead to, so that the step after
    /// it can be scheduled. False if a sequence is sure to end here, or may take more than one token: then there is
    /// nothing to prepare.
    pub fn begin_guessing(&mut self, step: &mut Step) -> bool {
        let certain = self.guess(step);
        self.begin(step);
        self.push_guesses(step, certain)
    }

    /// As [`Runner::begin_guessing`], of a step that was begun before the one before it was settled: some of its sequences
    /// may be gone, and what comes of them is nobody's.
    pub fn catch_up(&mut self, step: &mut Step) -> bool {
        let mut here = Vec::with_capacity(step.slices.len());
        for (slice, id) in step.slices.iter_mut().zip(&mut step.ids) {
            match self.scheduler.place(*id) {
                Some(index) => {
                    slice.index = index;
                    here.push(*slice);
                }
                None => *id = NOBODY,
            }
        }
        let certain = self.guess(step);
        self.scheduler.complete(&here);
        self.push_guesses(step, certain)
    }

    /// Finds the sequences whose next token is to be guessed.
    fn guess(&self, step: &mut Step) -> bool {
        let mut certain = self.config.speculate == 0;
        for (slice, &id) in step.slices.iter().zip(&step.ids).filter(|(slice, _)| slice.rows > 0) {
            let (request, choice) = owner(id);
            let reaches = slice.start + slice.count;
            match self.callers.get(&request).map(|caller| &caller.work) {
                Some(Work::Generate(g)) if reaches >= g.request.prompt.len() => {
                    certain &= g.choices[choice].generated + 1 < g.request.max_new_tokens;
                    step.guessed.push(id);
                }
                Some(Work::Score(scoring)) => certain &= reaches < scoring.total,
                Some(Work::Judge(judging)) => certain &= !judging.is_read(choice, reaches),
                _ => {}
            }
        }
        certain
    }

    fn push_guesses(&mut self, step: &mut Step, certain: bool) -> bool {
        match certain {
            true => step.guessed.iter().for_each(|&id| self.scheduler.push(id, GUESS)),
            false => step.guessed.clear(),
        }
        certain
    }

    /// Lets a step that was prepared over guesses begin before they are settled, if it asks nothing that depends on them: in
    /// their place it names the rows of the step that runs. What it wants is said then.
    pub fn follow(&mut self, running: &Step, next: &mut Step) -> bool {
        let rows = running.slices.iter().zip(&running.ids).scan(0, |end, (slice, &id)| {
            *end += slice.rows;
            Some((id, *end))
        });
        let last_rows: HashMap<u64, usize> = rows.filter(|(id, _)| running.guessed.contains(id)).collect();
        // A sequence that was taken out of the running meanwhile may be read anew: then its guess comes later.
        let ends = |slice: &Slice| slice.start + slice.count >= self.scheduler.running()[slice.index].tokens.len();
        let row_of = |(slice, id)| last_rows.get(id).filter(|_| ends(slice)).map(|end| (end - 1) as u32);
        let guessed: Vec<Option<u32>> = next.slices.iter().zip(&next.ids).map(row_of).collect();
        let foreseen = next.ids.iter().zip(&guessed).filter(|(_, row)| row.is_some()).all(|(&id, _)| {
            let (request, choice) = owner(id);
            let work = self.callers.get(&request).map(|caller| &caller.work);
            matches!(work, Some(Work::Generate(g)) if g.is_foreseen(choice))
        });
        let want = self.want(next);
        if !foreseen || !want.is_of_choices() {
            return false;
        }
        self.metrics.now.begun_ahead += 1;
        next.want = want;
        for (end, row) in next.batch.query_starts[1..].iter().zip(guessed) {
            if let Some(row) = row {
                next.batch.tokens[*end as usize - 1] = CHOSEN | row;
            }
        }
        true
    }

    /// Puts the tokens that are known by now in the place of guesses.
    fn correct(&self, step: &mut Step) {
        for (i, slice) in step.slices.iter().enumerate() {
            let last = step.batch.query_starts[i + 1] as usize - 1;
            step.batch.tokens[last] = self.scheduler.running()[slice.index].tokens[slice.start + slice.count - 1];
        }
    }

    /// The step to run after one that was settled: that which was prepared `ahead`, if the guesses held.
    pub fn next(&mut self, ahead: Option<Step>, as_guessed: bool) -> Option<Step> {
        match ahead {
            Some(mut step) if as_guessed => {
                self.correct(&mut step);
                Some(step)
            }
            Some(_) => {
                self.metrics.now.prepared_again += 1;
                self.prepare()
            }
            None => self.prepare(),
        }
    }
}

//! A workload that takes the whole machine through its paces in a few thousand calls to the disk.

use cairn::{Db, Durability, Env, ErrorKind, Keyspace, Options, SeqNo, Snapshot, Ticket, Visibility};

use super::Random;
use super::history::{Op, Recorder, SPACES};

/// The directory of the database. Nested, so that its parents must be made and made durable too.
pub const DIR: &str = "data/db";

/// An open database with one client.
#[derive(Clone)]
pub struct Client {
    pub db: Db,
    pub spaces: [Keyspace; 2],
    recorder: Recorder,
    random: Random,
}

impl Client {
    pub fn open(env: &Env, options: &Options, recorder: &Recorder, seed: u64) -> cairn::Result<Client> {
        let db = Db::open_in(env, DIR, options.clone())?;
        let second = recorder.second_keyspace(true, db.snapshot().seq(), || db.keyspace(SPACES[1]))?;
        let spaces = [db.default_keyspace(), second];
        Ok(Client { db, spaces, recorder: recorder.clone(), random: Random::new(seed) })
    }

    fn ops(&mut self, count: u64) -> Vec<Op> {
        let mut op = || {
            let value = (!self.random.chance(3)).then(|| self.random.value());
            (self.random.below(2) as usize, self.random.key(), value)
        };
        (0..count).map(|_| op()).collect()
    }

    fn batch(&self, ops: &[Op]) -> cairn::Batch {
        let mut batch = self.db.batch();
        for (space, key, value) in ops {
            match value {
                Some(value) => batch.put(&self.spaces[*space], key, value),
                None => batch.delete(&self.spaces[*space], key),
            }
        }
        batch
    }

    fn durability(&mut self) -> Durability {
        if self.random.chance(3) { Durability::Buffered } else { Durability::Commit }
    }

    /// One batch, sometimes with a condition.
    pub fn write(&mut self) -> cairn::Result<()> {
        let count = if self.random.chance(3) { 2 + self.random.below(8) } else { 1 };
        let ops = self.ops(count);
        let mut batch = self.batch(&ops);
        if self.random.chance(4) {
            let (space, key) = (&self.spaces[self.random.below(2) as usize], self.random.key());
            match self.random.below(3) {
                0 => batch.require_absent(space, &key),
                1 => batch.require_unchanged(space, &key, SeqNo(self.random.below(400))),
                _ => batch.require_range_unchanged(space, &key, None, space.latest(Visibility::Applied).pinned().seq()),
            }
        }
        let durability = self.durability();
        match self.db.write(batch, durability) {
            Ok(commit) => self.recorder.written(ops, commit.seq, durability),
            Err(e) if e.kind() == ErrorKind::Conflict => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// One durable put of that many bytes.
    pub fn put(&mut self, space: usize, bytes: usize) -> cairn::Result<()> {
        let ops = vec![(space, self.random.key(), Some(vec![space as u8; bytes]))];
        let commit = self.db.write(self.batch(&ops), Durability::Commit)?;
        self.recorder.written(ops, commit.seq, Durability::Commit);
        Ok(())
    }

    /// Hands over several batches before it waits for the first.
    fn pipeline(&mut self) -> cairn::Result<()> {
        let mut waiting: Vec<(Vec<Op>, Durability, Ticket)> = Vec::new();
        for _ in 0..2 + self.random.below(5) {
            let count = 1 + self.random.below(3);
            let ops = self.ops(count);
            let durability = self.durability();
            let ticket = self.db.submit(self.batch(&ops), durability)?;
            waiting.push((ops, durability, ticket));
        }
        for (ops, durability, ticket) in waiting {
            let commit = ticket.wait()?;
            self.recorder.written(ops, commit.seq, durability);
        }
        Ok(())
    }

    fn read(&mut self) -> cairn::Result<()> {
        let space = &self.spaces[self.random.below(2) as usize];
        let reader = space.latest(Visibility::Durable).pinned();
        reader.get(&self.random.key())?;
        self.recorder.shown_durable(reader.seq());
        Ok(())
    }

    /// One step; a snapshot may be held from one to the next.
    pub fn step(&mut self, snapshot: &mut Option<Snapshot>) -> cairn::Result<()> {
        match self.random.below(100) {
            0..70 => self.write(),
            70..80 => self.pipeline(),
            80..90 => self.read(),
            90..93 => {
                *snapshot = snapshot.take().is_none().then(|| self.db.snapshot());
                Ok(())
            }
            93..96 => {
                let seq = self.db.snapshot().seq();
                self.db.sync()?;
                self.recorder.shown_durable(seq);
                Ok(())
            }
            96..99 => self.db.flush(),
            _ => self.db.compact(),
        }
    }

    pub fn steps(&mut self, count: u64) -> cairn::Result<()> {
        let mut snapshot = None;
        (0..count).try_for_each(|_| self.step(&mut snapshot))
    }

    /// Drops the second keyspace, with what is on its way to tables, and makes it again. No other client is there.
    fn drop_second(&mut self) -> cairn::Result<()> {
        let seq = self.db.snapshot().seq();
        assert!(self.recorder.second_keyspace(false, seq, || self.db.drop_keyspace(SPACES[1]))?);
        let refused = self.spaces[1].put(b"k", b"v").map_err(|e| e.kind());
        assert_eq!(refused, Err(ErrorKind::NotFound));
        self.spaces[1] = self.recorder.second_keyspace(true, seq, || self.db.keyspace(SPACES[1]))?;
        Ok(())
    }

    pub fn close(self) -> cairn::Result<()> {
        self.db.close()
    }
}

/// Opens, writes alone and with another client, drops a keyspace, closes, and that three times over.
pub fn run(env: &Env, options: &Options, recorder: &Recorder, seed: u64, steps: u64) -> cairn::Result<()> {
    for round in 0..3 {
        let mut client = Client::open(env, options, recorder, seed + round)?;
        client.steps(steps)?;
        let mut other = client.clone();
        other.random = Random::new(seed + 100 + round);
        let thread = env.spawn("other-client", move || other.steps(steps / 2).unwrap())?;
        client.steps(steps / 2)?;
        assert!(thread.join());
        client.drop_second()?;
        client.steps(steps / 4)?;
        client.db.compact()?;
        client.steps(steps / 4)?;
        client.close()?;
    }
    Ok(())
}

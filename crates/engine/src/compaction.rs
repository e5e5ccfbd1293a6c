//! Compaction: tables of one or two levels become tables of the lower one.
//!
//! What a crash between the steps leaves: before the edit, output files that nothing names; after
//! it, input files that nothing names. The next open removes either.
//!
//! A keyspace may be dropped while its tables are merged: the compaction ends without an edit.

use std::sync::atomic::Ordering;

use crate::core::Core;
use crate::edit::Change;
use crate::error::{Error, Result};
use crate::files::table_path;
use crate::levels::{Levels, TableRef};
use crate::merge::{Merge, Source};
use crate::output::Output;
use crate::picker::Plan;
use crate::stats::add;
use crate::types::{KeyspaceId, TableId};

impl Core {
    /// Carries out a plan.
    pub(crate) fn compact(&self, id: KeyspaceId, plan: &Plan) -> Result<()> {
        match self.try_compact(id, plan) {
            // Whatever it ended with: nobody misses the tables of a keyspace that was dropped.
            Err(_) if self.is_dropped(id) => Ok(()),
            result => result,
        }
    }

    fn try_compact(&self, id: KeyspaceId, plan: &Plan) -> Result<()> {
        if plan.trivial_move {
            let moved: Vec<(usize, TableRef)> =
                plan.inputs.iter().map(|(_, table)| (plan.output_level, table.clone())).collect();
            self.install_compaction(id, plan, moved)?;
            add(&self.counters.compaction_moves_count, plan.inputs.len() as u64);
            return Ok(());
        }
        let Some(tree) = self.catalog.tree(id) else { return Ok(()) };
        let mut output = Output::new(self, id, plan.output_level, self.snapshots.list());
        let tables = self.merge_inputs(&tree.levels, plan, &mut output);
        drop(tree);
        let (bytes, dropped) = (output.bytes(), output.dropped);
        let installed = tables.and_then(|tables| {
            let added = tables.into_iter().map(|table| (plan.output_level, table)).collect();
            self.install_compaction(id, plan, added)
        });
        match installed {
            Ok(()) => {
                add(&self.counters.compactions_count, 1);
                add(&self.counters.compaction_read_bytes, plan.bytes());
                add(&self.counters.compaction_write_bytes, bytes);
                add(&self.counters.compaction_dropped_entries, dropped);
                Ok(())
            }
            Err(e) => {
                self.discard(output);
                Err(e)
            }
        }
    }

    fn merge_inputs(&self, levels: &Levels, plan: &Plan, output: &mut Output<'_>) -> Result<Vec<TableRef>> {
        let mut merge = Merge::new(sources(plan));
        merge.seek_to_first()?;
        while let Some(entry) = merge.entry() {
            let below = || levels.key_may_lie_below(plan.output_level, entry.key);
            output.add(entry.key, entry.seq, entry.kind, entry.value, below)?;
            merge.step()?;
        }
        output.finish()
    }

    fn install_compaction(&self, id: KeyspaceId, plan: &Plan, added: Vec<(usize, TableRef)>) -> Result<()> {
        let removed: Vec<TableId> = plan.inputs.iter().map(|(_, table)| table.meta.id).collect();
        let mut changes: Vec<Change> = plan
            .inputs
            .iter()
            .map(|(level, table)| Change::RemoveTable { keyspace: id, level: *level, id: table.meta.id })
            .collect();
        changes.extend(added.iter().map(|(level, table)| Change::AddTable {
            keyspace: id,
            level: *level,
            meta: table.meta.clone(),
        }));
        changes.push(Change::NextTable(self.next_table.load(Ordering::Relaxed)));
        let stale = if cairn_env::mutant("compaction-undoes-a-flush") { self.catalog.tree(id) } else { None };
        if cairn_env::mutant("input-removed-before-edit") && !plan.trivial_move {
            removed.iter().for_each(|&table| drop(self.env.remove(&table_path(&self.dir, table))));
        }
        let mut manifest = self.manifest.lock();
        let manifest = manifest.as_mut().ok_or_else(|| Error::closed("the database is closed"))?;
        self.check_kept(id)?;
        self.commit_edit(manifest, &changes)?;
        if !plan.trivial_move {
            for (_, table) in &plan.inputs {
                table.mark_obsolete();
            }
        }
        self.catalog.update(id, |tree| {
            let levels = stale.as_ref().map_or(&tree.levels, |stale| &stale.levels);
            tree.levels = levels.with(&removed, &added);
        });
        Ok(())
    }
}

/// The inputs as sources of a merge: a table of level 0 each, a sorted level as one.
fn sources(plan: &Plan) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut sorted: std::collections::BTreeMap<usize, Vec<TableRef>> = std::collections::BTreeMap::new();
    for (level, table) in &plan.inputs {
        if *level == 0 {
            sources.push(Source::table(table, false));
        } else {
            sorted.entry(*level).or_default().push(table.clone());
        }
    }
    for (_, mut tables) in sorted {
        tables.sort_by(|a, b| a.meta.smallest_key.cmp(&b.meta.smallest_key));
        sources.push(Source::level(tables.into(), false));
    }
    sources
}

//! Makes a complete checkpoint visible. A durable list of renames is the moment of commitment: before it the old
//! content stands untouched, after it any later run completes the list.
use super::{CheckpointWriter, entries, seal::digest_of, staging::Staging};
use crate::{
    Error, Result, STAGING,
    companions::COMPANIONS,
    digests::{DIGESTS, Digests, TensorDigest},
    durable::Disk,
    entry::check_plain_name,
    journal::Settings,
    json,
    shards::{INDEX, SINGLE, SUFFIX},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The list of renames; its presence is the commitment.
pub(super) const MARKER: &str = "publish.json";
const CONFIG: &str = "config.json";

/// What has to happen to the output directory.
#[derive(Serialize, Deserialize)]
pub(super) struct Plan {
    /// Files of the model that is replaced.
    remove: Vec<String>,
    /// From a path in the staging folder to a name in the directory, in this order.
    moves: Vec<(String, String)>,
    /// Those of the run that made it.
    #[serde(default)]
    settings: Settings,
}

/// Completes a publication that was cut short, if there is one in `dir`, and gives the settings of the run that it is of.
/// [`CheckpointWriter::create`] completes it too.
pub fn recover(dir: &Path) -> Result<Option<Settings>> {
    if !dir.join(STAGING).join(MARKER).exists() {
        return Ok(None);
    }
    let disk = Disk::default();
    let staging = Staging::open(&disk, dir)?;
    roll_forward(&disk, dir, &staging)
}

/// Writes the list of renames durably.
pub(super) fn commit(disk: &Disk, staging: &Staging, plan: &Plan) -> Result<()> {
    let text = serde_json::to_vec(plan).expect("plain data always serializes");
    disk.write_file(&staging.path(MARKER), &text)
}

/// Gives up a publication that cannot be completed, and all that was to be published.
pub(super) fn abandon(disk: &Disk, staging: &Staging) -> Result<()> {
    disk.remove(&staging.path(MARKER))?;
    staging.clear(disk)
}

/// Does what the list says, skipping what is done, then removes the staging folder; the settings of the run that made
/// the list. Nothing happens without one.
pub(super) fn roll_forward(disk: &Disk, dir: &Path, staging: &Staging) -> Result<Option<Settings>> {
    let marker = staging.path(MARKER);
    if !marker.exists() {
        return Ok(None);
    }
    let plan = read_plan(&marker)?;
    let moved = |name: &String| plan.moves.iter().any(|(from, to)| to == name && !staging.path(from).exists());
    // The old model stops being loadable first: no mixture of old and new files ever loads.
    for name in plan.remove.iter().filter(|n| !moved(n)) {
        disk.remove(&dir.join(name))?;
    }
    disk.sync_dir(dir)?;
    for (from, to) in &plan.moves {
        let (from, to) = (staging.path(from), dir.join(to));
        if from.exists() {
            disk.rename(&from, &to)?;
        } else if !to.exists() {
            return Err(Error::file(&to, "a file that was ready to publish", "none; start again with --overwrite"));
        }
    }
    staging.clear(disk)?;
    disk.remove(&marker)?;
    let folder = staging.path("");
    fs::remove_dir_all(&folder).map_err(Error::io(&folder, "remove"))?;
    disk.sync_dir(dir)?;
    Ok(Some(plan.settings))
}

fn read_plan(marker: &Path) -> Result<Plan> {
    let text = fs::read(marker).map_err(Error::io(marker, "read"))?;
    let plan: Plan =
        serde_json::from_slice(&text).map_err(|e| Error::file(marker, "a list of renames", e.to_string()))?;
    let sources = plan.moves.iter().map(|(from, _)| from.strip_prefix("files/").unwrap_or(from));
    let names = plan.remove.iter().chain(plan.moves.iter().map(|(_, to)| to)).map(String::as_str);
    for name in sources.chain(names) {
        check_plain_name(name).map_err(|found| Error::file(marker, "plain file names", found))?;
    }
    Ok(plan)
}

impl CheckpointWriter {
    /// Names the shards, stages index and digests, and lists what has to move, what makes it loadable last.
    pub(super) fn plan(&mut self, shards: usize) -> Result<(Plan, Digests)> {
        let name = |n: usize| match shards {
            1 => SINGLE.to_string(),
            _ => format!("model-{n:05}-of-{shards:05}{SUFFIX}"),
        };
        let mut digests = Digests::default();
        for n in 1..=shards {
            digests.files.insert(name(n), self.shard_digest(n)?);
        }
        for t in &self.tensors {
            let digest = TensorDigest { file: name(t.shard), sha256: t.sha256.clone() };
            digests.tensors.insert(t.name.clone(), digest);
        }
        for file in &self.files {
            let path = self.staging.file(file);
            let bytes = fs::read(&path).map_err(Error::io(&path, "read"))?;
            digests.files.insert(file.clone(), digest_of(&bytes));
        }
        let staged = |n: usize| (path_name(self.staging.sealed(n)), name(n));
        let mut moves: Vec<(String, String)> = Vec::new();
        let others = self.files.iter().filter(|f| *f != CONFIG);
        moves.extend(others.map(|f| (format!("files/{f}"), f.clone())));
        if shards > 1 {
            moves.extend((1..=shards).map(staged));
        }
        moves.push((DIGESTS.into(), DIGESTS.into()));
        moves.extend(self.files.get(CONFIG).map(|f| (format!("files/{f}"), f.clone())));
        if shards > 1 {
            let index = self.index(&name);
            digests.files.insert(INDEX.into(), digest_of(&index));
            self.disk.write_file(&self.staging.path(INDEX), &index)?;
            moves.push((INDEX.into(), INDEX.into()));
        } else {
            moves.push(staged(1));
        }
        self.disk.write_file(&self.staging.path(DIGESTS), &digests.to_json())?;
        Ok((Plan { remove: self.replaced()?, moves, settings: self.settings.clone() }, digests))
    }

    /// `model.safetensors.index.json` as transformers writes it.
    fn index(&self, name: &impl Fn(usize) -> String) -> Vec<u8> {
        let parameters: usize = self.tensors.iter().map(|t| t.shape.iter().product::<usize>()).sum();
        let size: u64 = self.tensors.iter().map(|t| t.bytes).sum();
        let mut by_name: Vec<_> = self.tensors.iter().map(|t| (&t.name, name(t.shard))).collect();
        by_name.sort();
        let map: Map<String, Value> = by_name.into_iter().map(|(n, f)| (n.clone(), json!(f))).collect();
        json::pretty(&json!({"metadata": {"total_parameters": parameters, "total_size": size}, "weight_map": map}))
    }

    /// Files of the model in the directory, what makes it loadable first: whoever wrote it, its tokenizer and template
    /// must not be taken for the new one's. Other files there are not ours to remove.
    fn replaced(&self) -> Result<Vec<String>> {
        let listed = Digests::open(&self.dir).ok().flatten().unwrap_or_default();
        let ours = |n: &String| {
            let weights = n.ends_with(SUFFIX) || n == INDEX || n == DIGESTS;
            weights || n == CONFIG || COMPANIONS.contains(&n.as_str()) || listed.files.contains_key(n)
        };
        let mut names: Vec<String> = entries(&self.dir)?.into_iter().filter(ours).collect();
        names.retain(|n| check_plain_name(n).is_ok() && !self.dir.join(n).is_dir());
        names.sort_by_key(|n| (!(n == INDEX || n == SINGLE), n != CONFIG));
        Ok(names)
    }
}

fn path_name(path: PathBuf) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

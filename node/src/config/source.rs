//! The gateway configuration as it is replicated: the text, and the octets of every file that it names.
//!
//! Both may hold secrets: neither is printed by `Debug`, and what leaves the daemon is redacted here first. A secret is
//! shown as a fingerprint that is keyed, so that it tells "the same" or "another one" and helps nobody to guess.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crypto::Secret;
use crypto::prf::Prf;
use ipsec::policy::Gateway;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Code, Diagnostic, Report};
use super::gateway_toml::examine;
use crate::control::api;
use crate::fault::Fault;

/// Octets of `gateway.toml`.
pub const TEXT_LEN_MAX: usize = 1 << 20;
/// Octets of one file that it names, and how many it may name.
pub const FILE_LEN_MAX: usize = 64 << 10;
pub const FILES_MAX: usize = 1024;
/// Octets of all of them together.
pub const FILES_LEN_MAX: usize = 2 << 20;

/// Keys whose text is a secret when it is written into the file.
const SECRET_KEYS: [&str; 2] = ["psk", "eap"];

#[derive(Clone, Default, PartialEq, Eq)]
pub struct GatewaySource {
    /// The text of `gateway.toml` as it was applied.
    pub toml: String,
    /// By the name that the text uses, whatever directory it was read from.
    pub files: BTreeMap<String, Secret>,
}

/// A source as read from disk, with everything there is to say about it.
#[derive(Debug)]
pub struct Loaded {
    pub source: GatewaySource,
    pub report: Report,
    /// Only without a mistake.
    pub gateway: Option<Gateway>,
}

impl GatewaySource {
    /// Reads a file and what it names, relative to it, and checks all of it. A `Fault` only when the file itself cannot
    /// be read.
    pub fn load(path: &Path) -> Result<Loaded, Fault> {
        let name = path.display().to_string();
        let text = read_text(path)?;
        if is_swanctl(&text) {
            return Err(Fault::usage(format!(
                "{name} looks like a swanctl.conf: reading one is not built yet"
            ))
            .attempt("write it as a gateway.toml; proposals and selectors keep swanctl's words"));
        }
        let mut source = GatewaySource { toml: text, files: BTreeMap::new() };
        let base = path.parent().unwrap_or(Path::new(""));
        let mut diagnostics = Vec::new();
        let mut total = 0;
        for (file, span) in files_named(&source.toml) {
            if source.files.contains_key(&file) {
                continue;
            }
            match read_named(&base.join(&file), &span, &mut diagnostics) {
                Ok(octets) => {
                    total += file.len() + octets.len();
                    source.files.insert(file, octets);
                }
                Err(diagnostic) => diagnostics.push(diagnostic.help("the name is relative to this file")),
            }
        }
        if source.files.len() > FILES_MAX || total > FILES_LEN_MAX {
            let text = format!(
                "the files that it names are too many or too big: {FILES_MAX} and {FILES_LEN_MAX} octets are allowed"
            );
            diagnostics.push(Diagnostic::error(Code::File, 0..0, text));
        }
        let (gateway, found) = examine(&source, 0);
        // A file that could not be read is told once.
        let unread: Vec<Range<usize>> =
            diagnostics.iter().map(|diagnostic| diagnostic.span.clone()).collect();
        diagnostics.extend(
            found
                .into_iter()
                .filter(|diagnostic| diagnostic.code != Code::File || !unread.contains(&diagnostic.span)),
        );
        let report = Report::new(name, masked(&source.toml), diagnostics);
        let gateway = gateway.filter(|_| !report.has_errors());
        Ok(Loaded { source, report, gateway })
    }

    /// The text with every secret in it replaced by its fingerprint.
    pub fn redacted(&self, key: &Secret) -> String {
        let mut text = String::new();
        let mut end = 0;
        for span in inline_secrets(&self.toml) {
            let Some((before, secret)) = self.toml.get(end..span.start).zip(self.toml.get(span.clone()))
            else {
                continue;
            };
            text.push_str(before);
            text.push_str(&format!("\"<secret {}>\"", fingerprint(key, secret.as_bytes())));
            end = span.end;
        }
        text.push_str(self.toml.get(end..).unwrap_or_default());
        text
    }

    pub fn files_shown(&self, key: &Secret) -> Vec<api::FileShown> {
        self.files
            .iter()
            .map(|(name, octets)| api::FileShown {
                name: name.clone(),
                octets: octets.len(),
                fingerprint: fingerprint(key, octets.as_bytes()),
            })
            .collect()
    }

    /// What differs, key by key, in alphabetical order. Comments and layout do not count.
    pub fn diff(&self, newer: &GatewaySource, key: &Secret) -> Vec<api::ConfigChange> {
        let (old, new) = (self.flattened(key), newer.flattened(key));
        let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        keys.into_iter()
            .filter(|key| old.get(*key) != new.get(*key))
            .map(|key| api::ConfigChange {
                key: key.clone(),
                old: old.get(key).cloned(),
                new: new.get(key).cloned(),
            })
            .collect()
    }

    fn flattened(&self, key: &Secret) -> BTreeMap<String, String> {
        let mut flat = BTreeMap::new();
        if let Ok(table) = DeTable::parse(&self.toml) {
            self.flatten(table.get_ref(), "", key, &mut flat);
        }
        flat
    }

    fn flatten(&self, table: &DeTable<'_>, path: &str, key: &Secret, flat: &mut BTreeMap<String, String>) {
        for (name, value) in table.iter() {
            let name: &str = name.get_ref();
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            match value.get_ref() {
                DeValue::Table(inner) if !inner.is_empty() => self.flatten(inner, &path, key, flat),
                DeValue::String(text) if SECRET_KEYS.contains(&name) => {
                    flat.insert(path, format!("<secret {}>", fingerprint(key, text.as_bytes())));
                }
                DeValue::String(text) if name == "file" => {
                    let content = self.files.get(text.as_ref()).map_or_else(
                        || "<absent>".to_owned(),
                        |octets| format!("<{}>", fingerprint(key, octets.as_bytes())),
                    );
                    flat.insert(path, format!("{text:?} {content}"));
                }
                other => {
                    flat.insert(path, shown(other));
                }
            }
        }
    }
}

/// The text with the octets of every secret in it replaced by asterisks, for drawing: places stay the same.
pub fn masked(text: &str) -> String {
    let mut octets = text.as_bytes().to_vec();
    for span in inline_secrets(text).into_iter().chain(lines_with_secrets(text)) {
        for octet in octets.get_mut(span).into_iter().flatten() {
            if !matches!(octet, b'\n' | b'"' | b'\'') {
                *octet = b'*';
            }
        }
    }
    // A whole character was replaced, octet by octet, or none of it.
    String::from_utf8_lossy(&octets).into_owned()
}

impl fmt::Debug for GatewaySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GatewaySource({} octets of text, {} files)", self.toml.len(), self.files.len())
    }
}

/// `3f9ac01d22b4`: the same for the same octets under the same key.
fn fingerprint(key: &Secret, octets: &[u8]) -> String {
    let digest = Prf::HmacSha256.prf(key.as_bytes(), &[b"pontoon fingerprint", octets]);
    digest.as_bytes().iter().take(6).map(|octet| format!("{octet:02x}")).collect()
}

/// The text of a configuration file.
pub fn read_text(path: &Path) -> Result<String, Fault> {
    let fault = |why: String| Fault::usage(format!("cannot read {}", path.display())).why(why);
    let octets = read_bounded(path, TEXT_LEN_MAX).map_err(fault)?;
    String::from_utf8(octets).map_err(|error| {
        let line =
            error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|c| **c == b'\n').count() + 1;
        fault(format!("line {line} is not UTF-8"))
    })
}

/// `name {` opens a section there, and `[name]` does here.
fn is_swanctl(text: &str) -> bool {
    let lines = || text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let opens = |line: &str| {
        line.split_once('{').is_some_and(|(name, rest)| {
            let name = name.split(':').next().unwrap_or_default().trim();
            let named = !name.is_empty()
                && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'));
            named && rest.trim().is_empty()
        })
    };
    lines().any(opens) && !lines().any(|line| line.starts_with('['))
}

fn read_named(
    path: &Path,
    span: &Range<usize>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<Secret, Diagnostic> {
    let octets = read_bounded(path, FILE_LEN_MAX).map_err(|why| {
        Diagnostic::error(Code::File, span.clone(), format!("cannot read {}: {why}", path.display()))
    })?;
    let octets = Secret::from(octets);
    if let Ok(about) = fs::metadata(path)
        && about.permissions().mode() & 0o077 != 0
    {
        diagnostics.push(
            Diagnostic::warning(
                Code::Secret,
                span.clone(),
                format!("{} may be read by others", path.display()),
            )
            .help(format!("chmod 0600 {}", path.display())),
        );
    }
    Ok(octets)
}

/// A regular file of at most `limit` octets.
fn read_bounded(path: &Path, limit: usize) -> Result<Vec<u8>, String> {
    let file = fs::File::open(path).map_err(|error| reason(&error))?;
    let about = file.metadata().map_err(|error| reason(&error))?;
    if about.is_dir() {
        return Err("it is a directory".to_owned());
    }
    let mut octets = Vec::with_capacity(usize::try_from(about.len()).unwrap_or(0).min(limit) + 1);
    file.take(limit as u64 + 1).read_to_end(&mut octets).map_err(|error| reason(&error))?;
    if octets.len() > limit {
        return Err(format!("it has more than {limit} octets"));
    }
    Ok(octets)
}

/// Without "(os error 2)".
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

/// Names under `file` below `[secrets]`, and where they stand.
fn files_named(text: &str) -> Vec<(String, Range<usize>)> {
    let mut found = Vec::new();
    walk_secrets(text, &mut |key, value| {
        if let ("file", DeValue::String(name)) = (key, value.get_ref()) {
            found.push((name.to_string(), value.span()));
        }
    });
    found
}

/// Where secrets are written into the text, in its order.
fn inline_secrets(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    walk_secrets(text, &mut |key, value| {
        if SECRET_KEYS.contains(&key) && value.get_ref().is_str() {
            found.push(value.span());
        }
    });
    found.sort_by_key(|span| span.start);
    found
}

/// What follows `psk =` on a line and is no table: where the grammar is broken, nothing else tells a secret.
fn lines_with_secrets(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        for key in SECRET_KEYS {
            for (at, _) in line.match_indices(key) {
                let behind = line[at + key.len()..].trim_start_matches(['"', '\'', ' ', '\t']);
                let Some(value) = behind.strip_prefix('=').map(str::trim_start) else { continue };
                if value.starts_with(['"', '\'']) {
                    found.push(start + line.len() - value.len()..start + line.len());
                }
            }
        }
        start += line.len();
    }
    found
}

fn walk_secrets(text: &str, visit: &mut dyn FnMut(&str, &Spanned<DeValue<'_>>)) {
    fn walk(table: &DeTable<'_>, visit: &mut dyn FnMut(&str, &Spanned<DeValue<'_>>)) {
        for (key, value) in table.iter() {
            visit(key.get_ref(), value);
            if let DeValue::Table(inner) = value.get_ref() {
                walk(inner, visit);
            }
        }
    }
    let (table, _) = DeTable::parse_recoverable(text);
    if let Some(DeValue::Table(secrets)) = table.get_ref().get("secrets").map(Spanned::get_ref) {
        walk(secrets, visit);
    }
}

fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| shown(item.get_ref())).collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(_) => "{}".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"version = 1
[connections.a]
local = { id = "gw", auth = "psk" }
remote = { id = "x", auth = "psk" }
dpd = "30s"
[connections.a.children.net]
local_ts = ["10.0.0.0/8"]
remote_ts = ["10.1.0.0/16"]
[secrets.x]
ids = ["x"]
psk = "hunter2 and hunter3"     # a comment
[secrets.y]
ids = ["y"]
psk = { file = "y.psk" }
"#;

    fn key() -> Secret {
        Secret::from_slice(b"key")
    }

    #[test]
    fn a_file_is_read_with_what_it_names_and_modes_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.toml");
        fs::write(&path, TEXT).unwrap();
        let loaded = GatewaySource::load(&path).unwrap();
        let texts: Vec<_> =
            loaded.report.diagnostics.iter().map(|d| (d.code, d.level, d.span.start)).collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(loaded.gateway.is_none());
        assert!(loaded.report.diagnostics[1].text.ends_with("y.psk: there is no such file"));

        let psk = dir.path().join("y.psk");
        fs::write(&psk, "another secret of a good length\n").unwrap();
        fs::set_permissions(&psk, fs::Permissions::from_mode(0o644)).unwrap();
        let loaded = GatewaySource::load(&path).unwrap();
        assert_eq!(loaded.report.summary(), "2 warnings");
        assert!(loaded.report.diagnostics[1].text.ends_with("y.psk may be read by others"));
        assert!(loaded.gateway.is_some());

        fs::set_permissions(&psk, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(GatewaySource::load(&path).unwrap().report.summary(), "1 warning");
    }

    #[test]
    fn what_cannot_be_read_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.toml");
        let why = |path: &Path| GatewaySource::load(path).unwrap_err().why.unwrap();
        assert_eq!(why(&path), "there is no such file");
        assert_eq!(why(dir.path()), "it is a directory");
        fs::write(&path, b"a = 1\nb = \"\xff\"\n").unwrap();
        assert_eq!(why(&path), "line 2 is not UTF-8");
        fs::write(&path, vec![b'#'; TEXT_LEN_MAX + 1]).unwrap();
        assert!(why(&path).contains("more than"));
    }

    #[test]
    fn a_swanctl_conf_is_told_from_a_gateway_toml() {
        for (text, is) in [
            ("connections {\n  gw {\n    version = 2\n  }\n}\n", true),
            ("# a comment\nsecrets{\n}\n", true),
            ("gw : base, other {\n}", true),
            (TEXT, false),
            ("x = { a = 1 }", false),
            ("", false),
        ] {
            assert_eq!(is_swanctl(text), is, "{text}");
        }
    }

    #[test]
    fn no_drawing_and_no_redacted_text_shows_a_secret() {
        let source = GatewaySource { toml: TEXT.to_owned(), files: BTreeMap::new() };
        let shown = source.redacted(&key());
        assert!(
            !shown.contains("hunter") && shown.contains("psk = \"<secret ") && shown.contains("# a comment")
        );
        assert!(shown.starts_with("version = 1\n") && shown.ends_with("psk = { file = \"y.psk\" }\n"));
        for text in [
            TEXT.to_owned(),
            "[secrets.x]\npsk = \"hunter2".to_owned(),
            "[secrets.x]\npsk = 'hunter2\nids=[".to_owned(),
            "[secrets.x]\npsk = \"\"\"\nhunter2\nhunter3\"\"\"\n".to_owned(),
            "secrets = { x = { psk = \"hunter2\" } }".to_owned(),
            "[secrets.x]\n\"psk\" = \"hünter2hunter\" = 4".to_owned(),
            "psk=\"hunter2\"".to_owned(),
        ] {
            let masked = masked(&text);
            assert!(!masked.contains("hunter"), "{masked}");
            assert_eq!(masked.len(), text.len());
        }
    }

    #[test]
    fn a_diff_tells_keys_and_fingerprints() {
        let with = |toml: String, psk: &str| GatewaySource {
            toml,
            files: [("y.psk".to_owned(), Secret::from_slice(psk.as_bytes()))].into(),
        };
        let old = with(TEXT.to_owned(), "one");
        assert_eq!(old.diff(&with(format!("# only a comment\n{TEXT}"), "one"), &key()), []);
        let newer = TEXT
            .replace("30s", "60s")
            .replace("hunter2", "hunter4")
            .replace("remote_ts", "replay = \"bounded\"\nremote_ts");
        let changes = old.diff(&with(newer, "two"), &key());
        let keys: Vec<_> = changes.iter().map(|change| change.key.as_str()).collect();
        assert_eq!(
            keys,
            ["connections.a.children.net.replay", "connections.a.dpd", "secrets.x.psk", "secrets.y.psk.file"]
        );
        assert_eq!(
            (changes[1].old.as_deref(), changes[1].new.as_deref()),
            (Some("\"30s\""), Some("\"60s\""))
        );
        assert_eq!(changes[0].old, None);
        let all = format!("{changes:?}");
        assert!(!all.contains("hunter") && !all.contains("\"one\""));
        assert_ne!(changes[3].old, changes[3].new);
        assert_ne!(fingerprint(&key(), b"a"), fingerprint(&Secret::from_slice(b"other"), b"a"));
    }
}

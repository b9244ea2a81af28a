//! The config drive: magic, `u32` length (little endian), JSON, zeros up to a multiple of 4096. Files for the
//! guest may follow (see [`crate::append_files`]).

use crate::GuestConfig;

const MAGIC: &[u8; 8] = b"BNGRCFG1";
const HEADER: usize = MAGIC.len() + 4;
const BLOCK: usize = 4096;

/// The most JSON that a config drive may hold, in bytes.
pub const MAX_CONFIG: usize = 256 << 10;

/// Why some bytes are no config drive.
#[derive(Debug, thiserror::Error)]
pub enum ConfigDriveError {
    /// They do not start with the magic.
    #[error("it is not a config drive of banger's")]
    Magic,
    /// They end before the JSON does, or the length is absurd.
    #[error("it says that it holds {length} bytes, and has room for {room}")]
    Length {
        /// As it says.
        length: u32,
        /// What is there, at most [`MAX_CONFIG`].
        room: usize,
    },
    /// The JSON is no [`GuestConfig`].
    #[error("its content is malformed")]
    Json(#[source] serde_json::Error),
}

/// The bytes of a config drive.
///
/// # Panics
/// Never: the configuration renders as JSON, and is far below 4 GiB.
#[must_use]
pub fn encode(config: &GuestConfig) -> Vec<u8> {
    let json = serde_json::to_vec(config).expect("the configuration has string keys only");
    let length = u32::try_from(json.len()).expect("a configuration is a few KiB");
    let mut out = Vec::with_capacity((HEADER + json.len()).next_multiple_of(BLOCK));
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&json);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
    out
}

/// How many bytes [`encode`] has made of these, which may have more behind them: where files begin.
///
/// # Errors
/// [`ConfigDriveError`] when they are not what it makes.
pub fn encoded_size(bytes: &[u8]) -> Result<u64, ConfigDriveError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(ConfigDriveError::Magic)?;
    let length = rest.first_chunk().map_or(0, |it| u32::from_le_bytes(*it));
    let header = u64::try_from(HEADER).unwrap_or_default();
    let block = u64::try_from(BLOCK).unwrap_or(1);
    Ok((header + u64::from(length)).next_multiple_of(block))
}

/// Reads a config drive's bytes.
///
/// # Errors
/// [`ConfigDriveError`] when they are not what [`encode`] makes.
pub fn decode(bytes: &[u8]) -> Result<GuestConfig, ConfigDriveError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(ConfigDriveError::Magic)?;
    let Some((length, rest)) = rest.split_first_chunk() else {
        return Err(ConfigDriveError::Length { length: 0, room: 0 });
    };
    let length = u32::from_le_bytes(*length);
    let room = rest.len().min(MAX_CONFIG);
    let json = usize::try_from(length)
        .ok()
        .filter(|size| *size <= room)
        .map(|size| &rest[..size])
        .ok_or(ConfigDriveError::Length { length, room })?;
    serde_json::from_slice(json).map_err(ConfigDriveError::Json)
}

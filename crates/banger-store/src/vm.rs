//! VM rows.

use std::net::Ipv4Addr;

use banger_core::{
    Digest, ImageName, Intent, KernelName, Phase, SpecOrigin, SpecOrigins, VmId, VmName, VmSpec,
};
use rusqlite::{Connection, Row, TransactionBehavior, params};

use crate::{Store, StoreError, failed};

/// A VM as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRow {
    /// Identity.
    pub id: VmId,
    /// Name, unique.
    pub name: VmName,
    /// Address, unique.
    pub address: Ipv4Addr,
    /// What its task is doing.
    pub phase: Phase,
    /// What the owner wants.
    pub intent: Intent,
    /// Its sizes.
    pub spec: VmSpec,
    /// Where the sizes came from.
    pub origins: SpecOrigins,
    /// Image.
    pub image: ImageName,
    /// The exact artefact, once it is resolved.
    pub image_digest: Option<Digest>,
    /// Kernel that was asked for or, once resolved, that it boots.
    pub kernel: Option<KernelName>,
    /// Whether it goes away with its first command.
    pub ephemeral: bool,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// RFC 3339, UTC, of the last start.
    pub started_at: Option<String>,
    /// The boot of the host in which it last started.
    pub boot_id: Option<String>,
    /// JSON of the last failure.
    pub failure: Option<String>,
}

/// A VM that has no address yet.
#[derive(Debug, Clone)]
pub struct NewVm {
    /// The row; its address is replaced by the one that is given out.
    pub row: VmRow,
    /// The addresses that may be given out: from, up to and including.
    pub addresses: (Ipv4Addr, Ipv4Addr),
    /// Within that range, what is not a guest's.
    pub reserved: Ipv4Addr,
}

/// What is stored of VMs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredVms {
    /// What can be read.
    pub readable: Vec<VmRow>,
    /// What cannot.
    pub unreadable: Vec<UnreadableVm>,
}

/// A row that this version cannot read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableVm {
    /// Whose it is, where at least that can be read.
    pub id: Option<VmId>,
    /// What stands where the name does.
    pub name: String,
    /// What is wrong with it.
    pub why: String,
}

impl From<UnreadableVm> for StoreError {
    fn from(vm: UnreadableVm) -> Self {
        let what = format!("VM {}", vm.name);
        Self::Row { what, why: vm.why }
    }
}

/// Why a VM was not stored.
#[derive(Debug, thiserror::Error)]
pub enum InsertVmError {
    /// Another VM has the name.
    #[error("the name `{0}` is taken")]
    NameTaken(VmName),
    /// No address is free.
    #[error("every address from {from} to {to} is given out")]
    AddressesExhausted {
        /// First of the range.
        from: Ipv4Addr,
        /// Last of the range.
        to: Ipv4Addr,
    },
    /// The database's.
    #[error(transparent)]
    Store(StoreError),
}

impl Store {
    /// Stores a new VM and gives it the lowest free address: one transaction, so that of two creates
    /// with one name exactly one succeeds.
    ///
    /// # Errors
    /// Name taken, no address left, or the database's.
    pub fn insert_vm(&self, new: NewVm) -> Result<VmRow, InsertVmError> {
        let mut row = new.row;
        let sqlite = |source| InsertVmError::Store(failed("storing a VM")(source));
        let mut connection = self.lock();
        crate::reserve::ensure(&self.reserve).map_err(InsertVmError::Store)?;
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(sqlite)?;
        let taken: i64 = transaction
            .query_row(
                "SELECT count(*) FROM vms WHERE name = ?1",
                [row.name.as_str()],
                |r| r.get(0),
            )
            .map_err(sqlite)?;
        if taken > 0 {
            return Err(InsertVmError::NameTaken(row.name));
        }
        let used = used_addresses(&transaction).map_err(sqlite)?;
        let (from, to) = new.addresses;
        let is_free =
            |address: &u32| *address != u32::from(new.reserved) && !used.contains(address);
        let Some(address) = (u32::from(from)..=u32::from(to)).find(is_free) else {
            return Err(InsertVmError::AddressesExhausted { from, to });
        };
        row.address = address.into();
        write(&transaction, &row).map_err(sqlite)?;
        transaction.commit().map_err(sqlite)?;
        Ok(row)
    }

    /// Writes a VM's row.
    ///
    /// # Errors
    /// The database's.
    pub fn save_vm(&self, row: &VmRow) -> Result<(), StoreError> {
        write(&self.lock(), row).map_err(failed("storing a VM"))
    }

    /// Forgets a VM and its journal; its name and address are free again. Absent is Ok.
    ///
    /// # Errors
    /// The database's.
    pub fn delete_vm(&self, id: &VmId) -> Result<(), StoreError> {
        let sql = "DELETE FROM vms WHERE id = ?1";
        self.lock()
            .execute(sql, [id.as_str()])
            .map(drop)
            .map_err(failed("forgetting a VM"))
    }

    /// Every VM whose row can be read, by name, and what is wrong with the others: one of them is in nobody else's way.
    ///
    /// # Errors
    /// The database's.
    pub fn stored_vms(&self) -> Result<StoredVms, StoreError> {
        let connection = self.lock();
        let sql =
            "SELECT id, name, address, phase, intent, spec, origin, image, image_digest, kernel,
                   ephemeral, created_at, started_at, boot_id, failure FROM vms ORDER BY name";
        let mut statement = connection.prepare(sql).map_err(failed("reading VMs"))?;
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, read(row))))
            .map_err(failed("reading VMs"))?;
        let mut vms = StoredVms::default();
        for row in rows {
            let (id, name, row): (String, String, _) = row.map_err(failed("reading VMs"))?;
            let read = match row {
                Ok(raw) => raw.into_row(),
                // What SQLite itself cannot read is no matter of one row.
                Err(error) if error.sqlite_error_code().is_some() => {
                    return Err(failed("reading VMs")(error));
                }
                Err(error) => Err(error.to_string()),
            };
            match read {
                Ok(row) => vms.readable.push(row),
                Err(why) => vms.unreadable.push(UnreadableVm {
                    id: id.parse().ok(),
                    name,
                    why,
                }),
            }
        }
        Ok(vms)
    }

    /// Every VM, by name.
    ///
    /// # Errors
    /// The database's, or a row that cannot be read.
    pub fn vms(&self) -> Result<Vec<VmRow>, StoreError> {
        let vms = self.stored_vms()?;
        match vms.unreadable.into_iter().next() {
            Some(unreadable) => Err(unreadable.into()),
            None => Ok(vms.readable),
        }
    }
}

fn used_addresses(connection: &Connection) -> rusqlite::Result<std::collections::HashSet<u32>> {
    let mut statement = connection.prepare("SELECT address FROM vms")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

fn write(connection: &Connection, row: &VmRow) -> rusqlite::Result<()> {
    let sql = "INSERT INTO vms (id, name, address, phase, intent, spec, origin, image,
               image_digest, kernel, ephemeral, created_at, started_at, boot_id, failure)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
               ON CONFLICT (id) DO UPDATE SET phase = ?4, intent = ?5, spec = ?6, image = ?8,
               image_digest = ?9, kernel = ?10, started_at = ?13, boot_id = ?14, failure = ?15";
    let json = |value: serde_json::Result<String>| {
        value.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
    };
    connection
        .prepare(sql)?
        .execute(params![
            row.id.as_str(),
            row.name.as_str(),
            u32::from(row.address),
            row.phase.as_str(),
            row.intent.as_str(),
            json(serde_json::to_string(&row.spec))?,
            json(serde_json::to_string(&row.origins))?,
            row.image.as_str(),
            row.image_digest.as_ref().map(Digest::as_str),
            row.kernel.as_ref().map(KernelName::as_str),
            row.ephemeral,
            row.created_at,
            row.started_at,
            row.boot_id,
            row.failure,
        ])
        .map(drop)
}

/// A row as SQLite gives it: text that still has to become types.
struct RawRow {
    id: String,
    name: String,
    address: u32,
    phase: String,
    intent: String,
    spec: String,
    origin: String,
    image: String,
    image_digest: Option<String>,
    kernel: Option<String>,
    ephemeral: bool,
    created_at: String,
    started_at: Option<String>,
    boot_id: Option<String>,
    failure: Option<String>,
}

fn read(row: &Row<'_>) -> rusqlite::Result<RawRow> {
    Ok(RawRow {
        id: row.get(0)?,
        name: row.get(1)?,
        address: row.get(2)?,
        phase: row.get(3)?,
        intent: row.get(4)?,
        spec: row.get(5)?,
        origin: row.get(6)?,
        image: row.get(7)?,
        image_digest: row.get(8)?,
        kernel: row.get(9)?,
        ephemeral: row.get(10)?,
        created_at: row.get(11)?,
        started_at: row.get(12)?,
        boot_id: row.get(13)?,
        failure: row.get(14)?,
    })
}

impl RawRow {
    /// The row, or what is wrong with it.
    fn into_row(self) -> Result<VmRow, String> {
        fn parse<T>(text: &str) -> Result<T, String>
        where
            T: std::str::FromStr<Err: std::fmt::Display>,
        {
            text.parse().map_err(|error: T::Err| error.to_string())
        }
        let json = |error: serde_json::Error| error.to_string();
        Ok(VmRow {
            id: parse(&self.id)?,
            name: parse(&self.name)?,
            address: self.address.into(),
            phase: Phase::from_word(&self.phase).ok_or("unknown phase")?,
            intent: Intent::from_word(&self.intent).ok_or("unknown intent")?,
            spec: serde_json::from_str(&self.spec).map_err(json)?,
            // The first releases noted one for all.
            origins: serde_json::from_str::<SpecOrigin>(&self.origin)
                .map(SpecOrigins::from)
                .or_else(|_| serde_json::from_str(&self.origin))
                .map_err(json)?,
            image: parse(&self.image)?,
            image_digest: self.image_digest.as_deref().map(parse).transpose()?,
            kernel: self.kernel.as_deref().map(parse).transpose()?,
            ephemeral: self.ephemeral,
            created_at: self.created_at,
            started_at: self.started_at,
            boot_id: self.boot_id,
            failure: self.failure,
        })
    }
}

//! Users, as the guest's own files name them.

/// What a Debian login has, for root.
pub const ROOT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The same for everybody else.
pub const USER_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games";

/// A user of the guest's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Id of the group that passwd(5) names.
    pub gid: u32,
    /// Home folder; it need not be there.
    pub home: String,
    /// Login shell; it need not be there.
    pub shell: String,
}

impl User {
    /// Root, also in an image without `/etc/passwd`.
    fn root() -> Self {
        Self {
            name: "root".to_owned(),
            uid: 0,
            gid: 0,
            home: "/root".to_owned(),
            shell: "/bin/sh".to_owned(),
        }
    }

    /// The user of that name or number; without one root.
    #[must_use]
    pub fn find(wanted: Option<&str>) -> Option<Self> {
        let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
        Self::parse(&String::from_utf8_lossy(&passwd), wanted)
    }

    /// Finds a line of passwd(5).
    fn parse(passwd: &str, wanted: Option<&str>) -> Option<Self> {
        let name = wanted.unwrap_or("root");
        let found = passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [user, _, uid, gid, _, home, shell] = fields[..] else {
                return None;
            };
            (user == name || uid == name).then_some(Self {
                name: user.to_owned(),
                uid: uid.parse().ok()?,
                gid: gid.parse().ok()?,
                home: home.to_owned(),
                shell: if shell.is_empty() { "/bin/sh" } else { shell }.to_owned(),
            })
        });
        found.or_else(|| ["root", "0"].contains(&name).then(Self::root))
    }

    /// The groups that list the user, and its own (group(5)).
    #[must_use]
    pub fn groups(&self) -> Vec<u32> {
        let table = std::fs::read_to_string("/etc/group").unwrap_or_default();
        let mut groups = vec![self.gid];
        for line in table.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            if let [_, _, gid, members] = fields[..]
                && members.split(',').any(|member| member == self.name)
                && let Ok(gid) = gid.parse()
            {
                groups.push(gid);
            }
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\nme:x:1000:100::/home/me:\n";

    #[test]
    fn users_are_found_by_name_and_number() {
        assert_eq!(User::parse(PASSWD, None).unwrap().shell, "/bin/bash");
        let me = User::parse(PASSWD, Some("me")).unwrap();
        assert_eq!((me.uid, me.gid, me.shell.as_str()), (1000, 100, "/bin/sh"));
        assert_eq!(User::parse(PASSWD, Some("1000")).unwrap(), me);
        assert_eq!(User::parse(PASSWD, Some("nobody")), None);
        assert_eq!(User::parse("", None).unwrap(), User::root());
    }
}

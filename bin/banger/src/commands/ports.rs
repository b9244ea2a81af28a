//! `vm ports`.

use banger_api::{Port, PortList};

use super::show::table;
use super::{CommandResult, Context};
use crate::start::Needs;

/// `vm ports`.
pub(crate) async fn ports(context: &Context<'_>, reference: &str) -> CommandResult {
    let client = context.client(Needs::Daemon).await?;
    let list = client.ports(reference).await?;
    context.ui.result(&list, text);
    if list.cut {
        context
            .ui
            .note("the guest has more listening sockets than are shown");
    }
    Ok(0)
}

fn text(list: &PortList) -> String {
    if list.ports.is_empty() {
        return format!("nothing listens in {}", list.vm);
    }
    let header = ["PROTO", "PORT", "PROCESS", "OWNER", "REACH", "URL"];
    table(&header, list.ports.iter().map(row).collect())
}

fn row(port: &Port) -> Vec<String> {
    let process = match (&port.process, port.pid) {
        (Some(name), Some(pid)) => format!("{name} ({pid})"),
        _ => "-".to_owned(),
    };
    let reach = match &port.address {
        Some(address) => address.clone(),
        None => format!("guest only ({})", port.bind),
    };
    vec![
        port.protocol.as_str().to_owned(),
        port.port.to_string(),
        process,
        port.user.clone().unwrap_or_else(|| port.uid.to_string()),
        reach,
        port.url.clone().unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_api::PortProtocol;

    fn list() -> PortList {
        let port = |protocol, port, bind: &str| Port {
            protocol,
            port,
            bind: bind.to_owned(),
            address: (bind == "0.0.0.0").then(|| format!("172.16.0.5:{port}")),
            pid: Some(812),
            process: Some("node".to_owned()),
            uid: 0,
            user: Some("root".to_owned()),
            url: None,
            http_status: None,
        };
        let web = Port {
            url: Some("http://demo.vm:3000/".to_owned()),
            http_status: Some(200),
            ..port(PortProtocol::Tcp, 3000, "0.0.0.0")
        };
        let unowned = Port {
            pid: None,
            process: None,
            user: None,
            uid: 1234,
            ..port(PortProtocol::Udp, 68, "0.0.0.0")
        };
        PortList {
            vm: "demo".to_owned(),
            ports: vec![web, port(PortProtocol::Tcp, 5432, "127.0.0.1"), unowned],
            cut: false,
        }
    }

    #[test]
    fn the_table() {
        insta::assert_snapshot!(text(&list()));
    }

    #[test]
    fn the_json() {
        insta::assert_json_snapshot!(list());
    }

    #[test]
    fn a_guest_where_nothing_listens() {
        let none = PortList {
            ports: vec![],
            ..list()
        };
        assert_eq!(text(&none), "nothing listens in demo");
    }
}

//! `vm acp`: an agent in the guest that speaks the Agent Client Protocol on its standard streams, as if
//! it ran here. Nothing but its own bytes goes to standard output.

use banger_guest_proto::ExecRequest;

use super::exec::in_guest;
use super::workspace::{GUEST_HOME, GUEST_PATH};
use super::{CommandResult, Context};
use crate::cli::AcpArgs;
use crate::start::Needs;
use crate::ui::{Output, Ui};

/// Where a workspace is, and where one is without.
const PLACES: [&str; 2] = [GUEST_PATH, GUEST_HOME];

/// What a shell says when there is no such command.
const NOT_FOUND: u8 = 127;

/// `vm acp`.
pub(crate) async fn acp(context: &Context<'_>, args: AcpArgs) -> CommandResult {
    let program = args.command.first().cloned().unwrap_or_default();
    let mut request = ExecRequest::new(args.command);
    request.env = args.env.variables()?;
    request.cwd = args.cwd;
    if request.cwd.is_none() {
        request.cwd_among = PLACES.map(str::to_owned).into();
    }
    let client = context.client(Needs::Daemon).await?;
    let code = in_guest(&client, &args.vm, request, false).await?;
    if code == NOT_FOUND {
        // On standard error, whatever the output is.
        Ui::new(Output::Text).note(&format!(
            "hint: the guest needs `{program}`; another agent's command goes after `--`"
        ));
    }
    Ok(code)
}

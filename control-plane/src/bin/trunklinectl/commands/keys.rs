//! `keys`: what applications make TURN credentials with, and the fleet's own keys.

use clap::{Args, Subcommand};
use trunkline_proto::operator::v1::{
    CreateKeyRequest, CreateKeyResponse, DeleteKeyRequest, ListKeysRequest, ListKeysResponse,
    MutationResponse, RenameKeyRequest, RevokeCredentialRequest, RotateFleetKeyRequest,
};

use crate::commands::nodes::summary;
use crate::fault::Fault;
use crate::output::{Columns, Output, clean};
use crate::session::Session;
use crate::{time, words};

/// Keys; without a subcommand they are listed.
#[derive(Debug, Args)]
pub struct Keys {
    #[command(subcommand)]
    command: Option<KeysCommand>,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Lists the keys of applications, and the fleet's own. No secret is shown.
    List,
    /// Makes a key, and shows its secret this once.
    #[command(after_help = "Example:\n  trunklinectl keys create \"video service\"")]
    Create {
        /// A name, for people.
        name: String,
    },
    /// Gives a key another name.
    Rename {
        /// The key's id.
        #[arg(value_name = "KEY")]
        key: String,
        /// The new name.
        name: String,
    },
    /// Refuses all credentials of a key, and ends their allocations.
    Delete {
        /// The key's id.
        #[arg(value_name = "KEY")]
        key: String,
    },
    /// Refuses one username until it ends by itself, and ends its allocations.
    #[command(after_help = "Example:\n  trunklinectl keys revoke 5f0c… 1795000000:5f0c…:alice")]
    Revoke {
        /// The key's id.
        #[arg(value_name = "KEY")]
        key: String,
        /// The whole username.
        username: String,
    },
    /// Makes a new key that seals what servers choose: nonces, tickets. No call notices.
    RotateFleetKey,
}

/// Runs `keys`.
///
/// # Errors
/// What the control plane refused, or that it does not answer.
pub async fn run(session: &mut Session, output: Output, keys: Keys) -> Result<(), Fault> {
    match keys.command.unwrap_or(KeysCommand::List) {
        KeysCommand::List => {
            let request = ListKeysRequest {};
            let answer =
                session.ask(request, async |client, request| client.list_keys(request).await).await?;
            output.message(&answer, text)
        }
        KeysCommand::Create { name } => {
            let request = CreateKeyRequest { mutation: session.mutation()?, name };
            let answer =
                session.ask(request, async |client, request| client.create_key(request).await).await?;
            output.message(&answer, created)
        }
        change => output.message(&apply(session, change).await?, summary),
    }
}

async fn apply(session: &mut Session, change: KeysCommand) -> Result<MutationResponse, Fault> {
    let mutation = session.mutation()?;
    match change {
        KeysCommand::Rename { key, name } => {
            let request = RenameKeyRequest { mutation, key_id: key, name };
            session.ask(request, async |client, request| client.rename_key(request).await).await
        }
        KeysCommand::Delete { key } => {
            let request = DeleteKeyRequest { mutation, key_id: key };
            session.ask(request, async |client, request| client.delete_key(request).await).await
        }
        KeysCommand::Revoke { key, username } => {
            let request = RevokeCredentialRequest { mutation, key_id: key, username };
            session.ask(request, async |client, request| client.revoke_credential(request).await).await
        }
        KeysCommand::RotateFleetKey | KeysCommand::List | KeysCommand::Create { .. } => {
            let request = RotateFleetKeyRequest { mutation };
            session.ask(request, async |client, request| client.rotate_fleet_key(request).await).await
        }
    }
}

fn text(answer: &ListKeysResponse) -> String {
    let mut columns = Columns::new(&["KEY", "CREATED (UTC)", "NAME"]);
    for key in &answer.keys {
        columns.row([key.id.clone(), time::moment(key.created_unix_s), key.name.clone()]);
    }
    let keys = columns.or_none("There are no keys. Make one: trunklinectl keys create NAME");
    let mut columns = Columns::new(&[">FLEET KEY", "CREATED (UTC)", "USE", "RETIRES (UTC)"]);
    for key in &answer.fleet_keys {
        columns.row([
            key.id.to_string(),
            time::moment(key.created_unix_s),
            key.r#use.clone(),
            time::moment(key.retires_unix_s),
        ]);
    }
    format!("{keys}\n{}", columns.or_none("The fleet has no keys yet: its first server brings them about."))
}

fn created(answer: &CreateKeyResponse) -> String {
    let key = answer.key.clone().unwrap_or_default();
    format!(
        "key     {}\nsecret  {}\nname    {}\n\nThe secret is shown only now (epoch {}).\n",
        clean(&key.id),
        clean(&answer.secret),
        clean(&key.name),
        words::epoch(answer.epoch.as_ref())
    )
}

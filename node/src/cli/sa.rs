//! `pontoon terminate` and `pontoon rekey`: one SA, named by its SPI.

use clap::Args;

use super::Context;
use super::output::{Rows, or_dash};
use crate::control::Call;
use crate::control::api::{Acted, SaRef};
use crate::fault::{Exit, Fault};

#[derive(Debug, Args)]
pub struct SaArgs {
    /// An IKE SPI (either one, 16 digits) or the inbound SPI of a child (8 digits), as `sas` shows them
    pub spi: SaRef,
}

pub fn terminate(args: &SaArgs, context: &Context) -> Result<Exit, Fault> {
    let acted: Acted = context.call(Call::Terminate { sa: args.spi })?;
    context.out.document(&acted, terminated, rows)?;
    Ok(Exit::Done)
}

pub fn rekey(args: &SaArgs, context: &Context) -> Result<Exit, Fault> {
    let acted: Acted = context.call(Call::Rekey { sa: args.spi })?;
    context.out.document(&acted, rekeyed, rows)?;
    Ok(Exit::Done)
}

pub fn terminated(acted: &Acted) -> String {
    format!("deleting {}\nundo:  none; the peer may connect again\n", about(acted))
}

pub fn rekeyed(acted: &Acted) -> String {
    format!("rekeying {}\nundo:  none; the new keys take over by themselves\n", about(acted))
}

fn about(acted: &Acted) -> String {
    let kind = match acted.spi {
        SaRef::Ike(_) => "IKE SA",
        SaRef::Child(_) => "child SA",
    };
    let Acted { spi, connection, peer_id, index, .. } = acted;
    format!("{kind} {spi} of {peer_id} (connection {connection}), committed at {index}")
}

fn rows(acted: &Acted) -> Rows {
    Rows::pairs(vec![
        ("spi", acted.spi.to_string()),
        ("connection", acted.connection.clone()),
        ("peer_id", acted.peer_id.clone()),
        ("owner", or_dash(&acted.owner)),
        ("index", acted.index.to_string()),
    ])
}

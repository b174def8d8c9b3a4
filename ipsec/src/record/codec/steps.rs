//! Changes and their steps.

use super::*;

impl From<&Change> for pb::Change {
    fn from(change: &Change) -> Self {
        pb::Change {
            segment: change.guard.segment.0.into(),
            epoch: change.guard.epoch.0,
            incarnation: change.guard.incarnation.0,
            spi: change.spi.0,
            revision: change.revision.0,
            at: change.at.0,
            steps: change.steps.iter().map(|step| pb::Step { kind: Some(step.into()) }).collect(),
        }
    }
}

impl TryFrom<pb::Change> for Change {
    type Error = DecodeError;
    fn try_from(change: pb::Change) -> Result<Self> {
        Ok(Change {
            guard: Guard {
                segment: Segment(small(change.segment)?),
                epoch: Epoch(change.epoch),
                incarnation: Incarnation(change.incarnation),
            },
            spi: Spi(change.spi),
            revision: Revision(change.revision),
            at: Millis(change.at),
            steps: change
                .steps
                .into_iter()
                .map(|step| need(step.kind, "an unknown step")?.try_into())
                .collect::<Result<_>>()?,
        })
    }
}

impl From<&Step> for pb::Kind {
    fn from(step: &Step) -> Self {
        match step {
            Step::Establish(record) => pb::Kind::Establish((&**record).into()),
            Step::Supersede { spi, silently } => {
                pb::Kind::Supersede(pb::Supersede { spi: spi.0, silently: *silently })
            }
            Step::Answered { message_id, octets } => {
                pb::Kind::Answered(pb::Reply { message_id: message_id.0, octets: octets.clone() })
            }
            Step::Asked(outstanding) => pb::Kind::Asked((&**outstanding).into()),
            Step::Concluded { message_id } => pb::Kind::Concluded(message_id.0),
            Step::Crossed { nonce, spi } => {
                pb::Kind::Crossed(pb::Crossed { nonce: nonce.clone(), spi: *spi })
            }
            Step::AddChild(child) => pb::Kind::AddChild((&**child).into()),
            Step::SetChildPhase { spi_in, phase } => {
                pb::Kind::SetChildPhase(pb::SetChildPhase { spi_in: spi_in.0, phase: Some((*phase).into()) })
            }
            Step::RemoveChild { spi_in, why } => {
                pb::Kind::RemoveChild(pb::RemoveChild { spi_in: spi_in.0, why: why_number(*why) })
            }
            Step::AddIke(record) => pb::Kind::AddIke((&**record).into()),
            Step::Inherit { by } => pb::Kind::Inherit(by.0),
            Step::SetPhase(phase) => pb::Kind::SetPhase((*phase).into()),
            Step::Moved(path) => pb::Kind::Moved(path.into()),
            Step::Remove { why } => pb::Kind::Remove(why_number(*why)),
        }
    }
}

impl TryFrom<pb::Kind> for Step {
    type Error = DecodeError;
    fn try_from(kind: pb::Kind) -> Result<Self> {
        Ok(match kind {
            pb::Kind::Establish(record) => Step::Establish(Box::new(record.try_into()?)),
            pb::Kind::Supersede(it) => Step::Supersede { spi: Spi(it.spi), silently: it.silently },
            pb::Kind::Answered(reply) => {
                Step::Answered { message_id: MessageId(reply.message_id), octets: reply.octets }
            }
            pb::Kind::Asked(outstanding) => Step::Asked(Box::new(outstanding.try_into()?)),
            pb::Kind::Concluded(message_id) => Step::Concluded { message_id: MessageId(message_id) },
            pb::Kind::Crossed(crossed) => Step::Crossed { nonce: crossed.nonce, spi: crossed.spi },
            pb::Kind::AddChild(child) => Step::AddChild(Box::new(child.try_into()?)),
            pb::Kind::SetChildPhase(it) => Step::SetChildPhase {
                spi_in: ChildSpi(it.spi_in),
                phase: need(it.phase, "a phase")?.try_into()?,
            },
            pb::Kind::RemoveChild(it) => {
                Step::RemoveChild { spi_in: ChildSpi(it.spi_in), why: why_of(it.why)? }
            }
            pb::Kind::AddIke(record) => Step::AddIke(Box::new(record.try_into()?)),
            pb::Kind::Inherit(by) => Step::Inherit { by: Spi(by) },
            pb::Kind::SetPhase(phase) => Step::SetPhase(phase.try_into()?),
            pb::Kind::Moved(path) => Step::Moved(path.try_into()?),
            pb::Kind::Remove(why) => Step::Remove { why: why_of(why)? },
        })
    }
}

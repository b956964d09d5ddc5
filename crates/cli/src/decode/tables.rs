//! ACPI tables in words.

use pagemend_cper::acpi::Table;
use pagemend_cper::acpi::hest::{GenericSource, GenericSource2, Hest, NotificationKind, Source};
use pagemend_cper::acpi::instructions::InstructionTable;

use super::explain::{Item, Part};
use super::facts::{Fact, fact};
use super::read::Found;
use crate::size::Size;

pub(super) fn explain(found: &Found, table: &Table<'_>) -> Item {
    let title = match table {
        Table::Hest(_) => "HEST: how errors are reported",
        Table::Bert(_) => "BERT: errors of the boot before",
        Table::Erst(_) => "ERST: how error records are kept",
        Table::Einj(_) => "EINJ: how errors are injected",
        _ => "Table",
    };
    let mut item = Item::new(found, "table", title.to_owned());
    let header = table.header();
    let text = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes)
            .trim_end_matches(['\0', ' '])
            .to_owned()
    };
    item.facts.push(fact(
        "From",
        format!("{} {}", text(&header.oem_id), text(&header.oem_table_id)),
    ));
    match table {
        Table::Hest(hest) => item.parts = sources(hest),
        Table::Bert(bert) => {
            let region = bert.region;
            let size = Size(region.length.get().into());
            let text = format!("{size} at physical {:#x}", region.address);
            item.facts.push(fact("Region", text));
            let read =
                "`pagemend decode /sys/firmware/acpi/tables/data/BERT` reads it on its machine";
            item.facts.push(fact("Do", read));
        }
        Table::Erst(table) | Table::Einj(table) => item.parts = instructions(table),
        _ => {}
    }
    item
}

fn sources(hest: &Hest<'_>) -> Vec<Part> {
    let part = |source| match source {
        Ok(source) => source_part(source),
        Err(error) => {
            let mut part = Part::new("Source", Vec::new());
            part.problem = Some(format!("{error}"));
            part
        }
    };
    hest.sources()
        .map(|source: Result<Source<'_>, pagemend_cper::error::Error>| part(source))
        .collect()
}

fn source_part(source: Source<'_>) -> Part {
    match source {
        Source::Generic(base) => generic(source.name(), base, None),
        Source::Generic2(second) => generic(source.name(), &second.base, Some(second)),
        Source::Other { bytes, .. } => {
            let content = format!("{} bytes, not decoded", bytes.len());
            Part::new(
                format!("Source: {}", source.name()),
                vec![fact("Content", content)],
            )
        }
        _ => Part::new("Source", Vec::new()),
    }
}

fn generic(name: &str, source: &GenericSource, second: Option<&GenericSource2>) -> Part {
    let mut facts = Vec::new();
    let notification = &source.notification;
    let kind = match notification.kind() {
        Some(NotificationKind::Polled) => {
            format!("polled every {} ms", notification.poll_interval)
        }
        Some(kind) => kind.name().to_owned(),
        None => format!("in the unknown way {}", notification.kind),
    };
    facts.push(fact("Notified", kind));
    let length = Size(source.status_length.get().into());
    let address = source.status_address;
    facts.push(fact(
        "Block",
        format!("up to {length}, its address is at {address}"),
    ));
    if let Some(second) = second {
        facts.push(fact(
            "Ack",
            format!("by {:#x} at {}", second.read_ack_write, second.read_ack),
        ));
    }
    let enabled = if source.enabled == 0 {
        ", disabled"
    } else {
        ""
    };
    Part::new(
        format!("Source {}: {name}{enabled}", source.source_id),
        facts,
    )
}

/// One part for each action: its instructions in order.
fn instructions(table: &InstructionTable<'_>) -> Vec<Part> {
    let by_action = table.instructions.chunk_by(|a, b| a.action == b.action);
    by_action
        .map(|instructions| {
            let first = &instructions[0];
            let action = table.action_name(first);
            let title = action.map_or_else(
                || format!("reserved action {}", first.action),
                str::to_owned,
            );
            let steps = instructions.iter().map(|instruction| {
                let name = table.instruction_name(instruction);
                let name = name.map_or_else(
                    || format!("reserved instruction {}", instruction.instruction),
                    str::to_owned,
                );
                step(&name, instruction)
            });
            Part::new(format!("To {title}"), steps.collect())
        })
        .collect()
}

fn step(name: &str, instruction: &pagemend_cper::acpi::instructions::Instruction) -> Fact {
    let (register, value) = (instruction.register, instruction.value.get());
    fact(
        "Step",
        format!(
            "{name} ({register}), value {value:#x}, mask {:#x}",
            instruction.mask
        ),
    )
}

//! The loss curve of a run, as a picture.

use std::path::Path;

use plotters::prelude::*;

use crate::checkpoint::Metrics;
use crate::error::{Error, Result};

/// Draws training and validation loss over the updates as SVG text.
///
/// # Errors
///
/// If no logged value can be drawn.
pub fn draw(metrics: &[Metrics], title: &str) -> Result<String> {
    let train: Vec<(f64, f64)> = points(metrics, |m| m.loss.map(f64::from));
    let val: Vec<(f64, f64)> = points(metrics, |m| m.val_loss);
    let all = || train.iter().chain(&val);
    let last = all().map(|p| p.0).fold(1.0, f64::max);
    let least = all().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let most = all().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    if least > most {
        return Err(Error::input("no loss was logged yet"));
    }
    let margin = 0.05 * (most - least).max(0.1);
    let mut svg = String::new();
    paint(&mut svg, title, last, least - margin..most + margin, &train, &val)
        .map_err(|error| Error::input(format!("drawing the loss curve: {error}")))?;
    Ok(svg)
}

/// Returns the finite values of one column over the updates.
fn points(metrics: &[Metrics], value: impl Fn(&Metrics) -> Option<f64>) -> Vec<(f64, f64)> {
    let point = |m: &Metrics| Some((m.step as f64, value(m).filter(|x| x.is_finite())?));
    metrics.iter().filter_map(point).collect()
}

fn paint(
    svg: &mut String,
    title: &str,
    last: f64,
    losses: std::ops::Range<f64>,
    train: &[(f64, f64)],
    val: &[(f64, f64)],
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, (800, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..last, losses)?;
    chart.configure_mesh().x_desc("updates").y_desc("loss").light_line_style(WHITE).draw()?;
    for (name, points, colour) in [("training", train, &BLUE), ("validation", val, &RED)] {
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    area.present()?;
    drop(chart);
    drop(area);
    Ok(())
}

/// Writes the curve into a file, whole; a run without any logged loss gets no file, and none in a browser, whose worker has no
/// fonts to measure: the page draws the curve.
///
/// # Errors
///
/// If the file cannot be written.
pub fn write(path: &Path, metrics: &[Metrics], title: &str) -> Result<()> {
    if cfg!(target_family = "wasm") {
        return Ok(());
    }
    match draw(metrics, title) {
        Ok(svg) => crate::files::write_bytes(path, svg.as_bytes()),
        Err(_) => Ok(()),
    }
}

#include "apps/report/report.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "apps/log.h"
#include "apps/report/page.h"

namespace facet {
namespace {

// A column of a table of objects.
struct Column {
  std::string heading, help;
  std::function<std::string(const Json&)> text;
};
Column column(const std::string& heading, const std::string& help, const std::string& key,
              int digits) {
  return {heading, help, [key, digits](const Json& row) {
            return number_cell(number(part(row, key)), false, digits);
          }};
}
Column words(const std::string& heading, const std::string& key) {
  return {heading, "", [key](const Json& row) {
            const Json& value = part(row, key);
            return value.is_string() ? value.get<std::string>() : value.dump();
          }};
}

std::string table(const Json& rows, const std::vector<Column>& columns) {
  Page page;
  page.raw("<div class=\"wide\"><table class=\"sortable\"><thead><tr>");
  for (const Column& c : columns)
    page.add("<th title=\"{}\">{}</th>", html_escape(c.help), html_escape(c.heading));
  page.raw("</tr></thead><tbody>");
  for (const Json& row : rows) {
    page.raw("<tr>");
    for (const Column& c : columns) page.add("<td>{}</td>", html_escape(c.text(row)));
    page.raw("</tr>");
  }
  page.raw("</tbody></table></div>");
  return page.take();
}

std::string model_table(const Json& results) {
  std::vector<Column> columns = {
      words("model", "name"),
      column("accuracy %", "upstream test accuracy", "accuracy", 2),
      column("D_C", "clustering diversity", "clustering_diversity", 4),
      column("D_S", "spectral diversity", "spectral_diversity", 4),
      column("CIS_C", "accuracy times clustering diversity", "clustering_cis", 2),
      column("CIS_S", "accuracy times spectral diversity", "spectral_cis", 2),
      column("CKA", "100 times the mean similarity of two stages", "cka", 1),
      column("intra", "intra-class variation", "intra", 3),
      column("inter", "inter-class separation", "inter", 3),
      column("MSC", "mean silhouette coefficient", "silhouette", 3),
      column("kNN %", "accuracy of nearest neighbours upstream", "knn", 2)};
  for (const Json& task : results["tasks"]) {
    const std::string name = task["name"];
    columns.push_back({name + " %", "linear probe on " + name, [name](const Json& model) {
                         return number_cell(number(part(model["probes"], name)), false, 2);
                       }});
  }
  columns.push_back(column("transfer", "transferability score", "transfer", 3));
  columns.push_back(column("±", "its standard error", "transfer_error", 3));
  return table(results["models"], columns);
}

std::string key_value_table(const Json& object) {
  Json rows = Json::array();
  for (const auto& [key, value] : object.items()) rows.push_back({{"key", key}, {"value", value}});
  return table(rows, {words("what", "key"), words("value", "value")});
}

// A section with plots, or nothing where there are none.
void figures(Page& page, const std::string& heading, const std::string& words_before,
             const Svgs& svgs, const char* kind = "plots") {
  if (svgs.empty()) return;
  page.add("<section><h2>{}</h2><p>{}</p><div class=\"{}\">", heading, words_before, kind);
  for (const std::string& svg : svgs) page.plot(svg);
  page.raw("</div></section>");
}

// "accuracy × clustering diversity foretells transfer better than accuracy does: ..."
std::string answer(const Json& results, const std::string& measure) {
  const Json& rows = results["correlations"];
  const auto found =
      std::ranges::find_if(rows, [&](const Json& row) { return row["measure"] == measure; });
  if (found == rows.end()) return "";
  const Json& row = *found;
  const Json& verdict = part(part(results, "answer"), measure);
  const double gain = number(part(row, "gain"));
  if (!std::isfinite(gain)) return "";
  const char* const text =
      verdict == "better"  ? "foretells transfer better than accuracy does"
      : verdict == "worse" ? "foretells transfer worse than accuracy does"
                           : "may foretell transfer better or worse than accuracy: these models "
                             "do not decide it";
  return fmt::format(
      "<p><strong>{} {}.</strong> Difference of the rank correlations {:+.2f}, 95% "
      "interval {:+.2f} to {:+.2f}.</p>",
      html_escape(row["title"]), text, gain, number(row["gain_low"]), number(row["gain_high"]));
}

void correlation_section(Page& page, const Json& results) {
  figures(page, "Which number foretells transfer? (Figure 1)",
          fmt::format("Every mark is one of {} models, the bar its standard error over the tasks. "
                      "The better a number foretells transfer, the closer the marks lie to a "
                      "rising line. The paper found rank correlations of 0.55 for accuracy, and "
                      "0.89 and 0.91 for accuracy times diversity, over ImageNet models that were "
                      "probed linearly.",
                      results["models"].size()),
          figure_1(results));
  page.raw(answer(results, "clustering_cis") + answer(results, "spectral_cis"));
  page.raw(
      "<p class=\"soft\">Correlations with transferability. The intervals hold 95% of what "
      "comes out when models are drawn anew, with replacement.</p>");
  page.raw(table(results["correlations"],
                 {words("measure", "title"), column("Spearman", "of the ranks", "spearman", 3),
                  column("from", "95% interval of Spearman's", "low", 2),
                  column("to", "95% interval of Spearman's", "high", 2),
                  column("Pearson", "of the values", "pearson", 3),
                  column("Kendall", "of the order of pairs", "kendall", 3),
                  column("R²", "Pearson's squared", "r2", 3),
                  column("gain", "Spearman's minus that of the accuracy", "gain", 2),
                  column("from", "95% interval of the gain", "gain_low", 2),
                  column("to", "95% interval of the gain", "gain_high", 2)}));
}

}  // namespace

std::string render_report(const Json& results) {
  Page page;
  page.begin(results["title"]);
  page.add("<p class=\"soft\">{} · {} · {}</p>", html_escape(results["created"]),
           html_escape(results["machine"]["processor"]),
           format_seconds(number(results["seconds"])));
  for (const Json& paragraph : results["introduction"])
    page.add("<p>{}</p>", html_escape(paragraph));
  page.raw(
      "<section><h2>All models</h2><p class=\"soft\">A click on a heading sorts. All numbers "
      "lie beside this page as .csv files.</p>");
  page.raw(model_table(results));
  page.raw("</section>");
  correlation_section(page, results);
  figures(page, "Diversity against accuracy (Figure 3)",
          "Diversity is measured on the weights alone: clustering diversity asks how many groups "
          "of similar features there are, spectral diversity how evenly the features fill their "
          "space. Larger circles transfer better. Background and curves are the product of both "
          "axes, the Calibrated ImageNet Score: if it foretells transfer, the large circles lie "
          "in its light region. Injecting labels moves a model to the right; the question is "
          "whether it moves down.",
          figure_3(results));
  figures(page, "How diverse the features of each model are (Figure 4)",
          "Before labels are injected. Networks of different kinds are not comparable layer by "
          "layer: a vision transformer is measured on the query, key and value weights of every "
          "attention head.",
          figure_4(results));
  figures(page, "What the control cycle does to one network (Figure 6)",
          "T = 1 is ordinary fine-tuning, T = ∞ leaves the network as it was. Left, how similar "
          "the network's stages remain to those of its start and become to those of the "
          "supervised one (100 is the same up to rotation); right, what became of its diversity, "
          "its accuracy and the product of both.",
          figure_6(results));
  figures(page, "Control cycle, diversity, score and transfer (Figure 7)",
          "A line a start. If the score is right, a start transfers best at the control cycle "
          "where its score is highest.",
          figure_7(results));
  figures(page, "Which factor counts most? (Figure 8)",
          fmt::format("Share of the gain that each factor brings to boosted regression trees that "
                      "predict transferability. With {} models this describes them; it promises "
                      "nothing of others.",
                      results["models"].size()),
          figure_8(results));
  figures(page, "Clusters of features, layer by layer (Figure 9)",
          "Features of a layer are merged while their mean cosine is above a threshold τ; C_τ is "
          "the share that is left. A curve that stays high up to the right has few similar "
          "features; the area below it is the layer's clustering diversity. Shown: the least "
          "diverse model, the one that transfers best and the most diverse one.",
          figure_9(results));
  figures(page, "How alike the stages of a model are (Figure 11)",
          "CKA between the activations of each pair of stages (or blocks) on test pictures. In "
          "parentheses, 100 times the mean off the diagonal: the higher, the less the stages "
          "differ.",
          figure_11(results), "maps");
  if (const Json& knn = part(results, "knn"); knn.is_object())
    figures(page, "What the networks learned before labels were injected",
            fmt::format("Each of {} test pictures is given the class that its {} nearest "
                        "neighbours among {} training pictures vote for. The same pictures and the "
                        "same vote are used for raw pixels, for the network as it was before "
                        "training, and after.",
                        knn["queries"].dump(), knn["k"].dump(), knn["train"].dump()),
            neighbour_bars(results));
  figures(page, "Losses",
          "The dashed line is the method's loss where nothing is learned: all images mapped to "
          "one point, all classes or prototypes equally likely, every patch predicted as its "
          "mean. A network that has learned lies below it.",
          loss_curves(results));
  page.raw(
      "<section><h2>Tasks</h2><p>The transferability score is the log odds of a model's "
      "accuracies, minus their mean over the models, averaged over the tasks below.</p>");
  page.raw(table(results["tasks"],
                 {words("task", "name"), words("classes", "classes"), words("train", "train"),
                  words("validation", "validation"), words("test", "test")}));
  page.raw("</section><section><h2>How it was made</h2>");
  page.raw(key_value_table(results["machine"]));
  page.add("<h3>Times</h3>{}", key_value_table(results["stage_seconds"]));
  page.add("<h3>Configuration</h3><p>Run again with <code>{}</code>.</p>",
           html_escape(results["command"]));
  for (const auto& [name, text] : results["configuration"].items())
    page.add("<details><summary>{}</summary><pre>{}</pre></details>", html_escape(name),
             html_escape(text));
  page.raw("</section>");
  return page.finish();
}

}  // namespace facet

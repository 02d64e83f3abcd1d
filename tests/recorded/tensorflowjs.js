// What tf.train.rmsprop of TensorFlow.js does with the configurations and gradients on stdin.
// Run by record.py, in a folder with `npm install @tensorflow/tfjs@4.22.0`; pure JavaScript, CPU.
const path = require("path");
const tf = require(path.join(process.cwd(), "node_modules", "@tensorflow/tfjs"));

async function main() {
  await tf.setBackend("cpu");
  const problem = JSON.parse(require("fs").readFileSync(0, "utf8"));
  const params = tf.variable(tf.tensor1d(problem.start), true, "w");
  const { decay, momentum, epsilon, centered } = problem.kwargs;
  const optimizer = tf.train.rmsprop(1.0, decay, momentum, epsilon, centered);
  const kept = [];
  problem.gradients.forEach((gradient, t) => {
    optimizer.learningRate = problem.rates[t];
    tf.tidy(() => optimizer.applyGradients({ w: tf.tensor1d(gradient) }));
    kept.push(Array.from(params.dataSync()));
  });
  console.log(JSON.stringify({ version: tf.version["tfjs"], params: kept }));
}
main();
